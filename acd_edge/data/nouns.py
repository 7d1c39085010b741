"""Names of things and materials, for the prompts of pictures that are described by no product's words.

A text tower that only ever reads the few products of its training learns their names; a detector is asked about others.
"""

_LIST = """
    aluminium profile; apple; axle; bag; ball; ball bearing; banknote; basket; battery; bead; belt; bicycle; board;
    bolt; bone; book; bottle; bowl; box; bracket; bread; brick; brush; building; button; cable; cable tie; candle;
    canvas; cap; capsule; car body; cardboard; carpet; carton; casting; ceramic; chain; chair; chip; chocolate;
    circuit; clip; clock; cloth; coating; coffee bean; coil; coin; concrete; connector; cookie; copper plate; cork;
    cotton; crystal; cup; cylinder; dial; disc; display; door; egg; engine; film; filter; fish; flange; floor;
    flower; foam; foil; food; fork; frame; fruit; fuse; gasket; gear; gem; glass; glove; grain; granite; grid;
    handle; helmet; hinge; hose; housing; image; insulator; jar; jewel; joint; key; label; lamp; leaf; leather;
    lens; lid; marble; mask; meat; medal; medicine; mesh; metal; metal nut; metal surface; microscope image; mirror;
    motor; nail; nail plate; needle; nut; organ; package; paint; panel; paper; part; photograph; photovoltaic cell;
    picture; pill; pin; pipe; plank; plant; plaster; plastic; plate; plug; porcelain; potato; print; product; pump;
    rail; resistor; ring; rivet; rock; rod; roller; roof; rope; rubber; sample; scan; screw; seal; seed; sensor;
    sheet metal; shell; shoe; silicon wafer; skin; socket; solar panel; specimen; spoon; spring; stamp; stone;
    surface; switch; syringe; table; tablet; tape; texture; thread; tile; tissue; tool; toothbrush; toy; transistor;
    tray; tube; turbine blade; tyre; valve; vegetable; vehicle; wall; washer; watch; wheel; window; wire; wood;
    wool; workpiece; X-ray image; yarn; zipper
"""

NOUNS: tuple[str, ...] = tuple(" ".join(noun.split()) for noun in _LIST.split(";"))
