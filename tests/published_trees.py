"""Small trees in exactly the layouts that the paper's data sets are published in, a few pictures each.

Every writer makes, where its set has them, at least one good and one defective picture to test on. They are wider than
high, so that turned sides are seen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 20, 14
_MASK_VALUE = 255


def picture(path: Path, number: int = 0) -> Path:
    """A picture of noise in whatever format the suffix asks for; another number, other pixels."""
    rng = np.random.default_rng([number, *path.as_posix().encode()[-24:]])
    return _save(path, rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8))


def mask(path: Path, value: int = _MASK_VALUE) -> Path:
    """A mask with a box of this value."""
    pixels = np.zeros((HEIGHT, WIDTH), np.uint8)
    pixels[3:8, 5:12] = value
    return _save(path, pixels)


def _save(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def mvtec_category(folder: Path, defect: str = "crack", suffix: str = ".png") -> None:
    """MVTec-AD and MPDD: `good`, defects by kind, masks `<stem>_mask.png`."""
    picture(folder / "train" / "good" / f"000{suffix}")
    picture(folder / "train" / "good" / f"001{suffix}")
    picture(folder / "test" / "good" / f"000{suffix}")
    picture(folder / "test" / defect / f"000{suffix}")
    mask(folder / "ground_truth" / defect / "000_mask.png")


def write_mvtec_ad(root: Path) -> Path:
    for category in ("bottle", "metal_nut", "zipper"):
        mvtec_category(root / category)
    (root / "readme.txt").write_text("no picture")
    (root / "license.txt").write_text("no picture")
    return root


def write_mpdd(root: Path) -> Path:
    for category in ("bracket_black", "connector", "metal_plate", "tubes"):
        mvtec_category(root / category, "scratches")
    return root


def write_btad(root: Path) -> Path:
    """`ok` and `ko`; pictures and masks differ in suffix from category to category."""
    for category, image, truth in (("01", ".bmp", ".png"), ("02", ".png", ".png"), ("03", ".bmp", ".bmp")):
        picture(root / category / "train" / "ok" / f"0000{image}")
        picture(root / category / "test" / "ok" / f"0001{image}")
        picture(root / category / "test" / "ko" / f"0000{image}")
        mask(root / category / "ground_truth" / "ko" / f"0000{truth}")
    return root


def write_visa(root: Path) -> Path:
    """Pictures are .JPG, masks .png hold class numbers; the split is a CSV beside the objects."""
    rows = ["object,split,label,image,mask"]
    for name in ("candle", "pcb1", "chewinggum"):
        for part, stem in (("train", "0000"), ("train", "0001"), ("test", "0002")):
            rows.append(f"{name},{part},normal,{name}/Data/Images/Normal/{stem}.JPG,")
            picture(root / name / "Data" / "Images" / "Normal" / f"{stem}.JPG")
        rows.append(f"{name},test,anomaly,{name}/Data/Images/Anomaly/000.JPG,{name}/Data/Masks/Anomaly/000.png")
        picture(root / name / "Data" / "Images" / "Anomaly" / "000.JPG")
        mask(root / name / "Data" / "Masks" / "Anomaly" / "000.png", 3)
        (root / name / "image_anno.csv").write_text("image,label,mask\n")
    (root / "split_csv").mkdir()
    for name in ("1cls", "2cls_fewshot", "2cls_highshot"):
        (root / "split_csv" / f"{name}.csv").write_text("\n".join(rows) + "\n")
    return root


def _bmad(root: Path, train: str, part: str, truth: str, parts: tuple[str, str], bad: str = "Ungood") -> Path:
    picture(root / train.format(part="train", Part="Train") / "a_1.png")
    for name in parts:
        for kind in ("good", bad):
            places = {"part": name, "Part": name.capitalize(), "kind": kind}
            picture(root / part.format(**places) / f"{name}_{kind}.png")
            if "anomaly_mask" in truth and kind == "good":
                continue
            mask(root / truth.format(**places) / f"{name}_{kind}.png", 255 if kind == bad else 0)
    return root


def write_brain(root: Path) -> Path:
    """BMAD's brain set, as its page describes it; the archive has one folder around it."""
    inner = root / "BraTS2021_slice"
    _bmad(inner, "{part}/good", "{part}/{kind}/img", "{part}/{kind}/label", ("valid", "test"))
    return root


def write_brain_repacked(root: Path) -> Path:
    """As MVFA-AD passes it on."""
    return _bmad(root, "{part}/good/img", "{part}/{kind}/img", "{part}/{kind}/anomaly_mask", ("valid", "test"))


def write_liver(root: Path) -> Path:
    _bmad(root / "hist_DIY", "{part}/good", "{part}/img/{kind}", "{part}/label/{kind}", ("valid", "test"))
    return root


def write_retina(root: Path) -> Path:
    inner = root / "RESC"
    _bmad(inner, "{Part}/{part}/good", "{Part}/{part}/{kind}", "{Part}/{part}_label/{kind}", ("val", "test"))
    return root


def write_polyps(root: Path, suffix: str = ".png") -> Path:
    """CVC-ColonDB (.png) and Kvasir-SEG (.jpg)."""
    for stem in ("1", "2", "10"):
        picture(root / "images" / f"{stem}{suffix}")
        mask(root / "masks" / f"{stem}{suffix}")
    return root


def write_kvasir(root: Path) -> Path:
    (write_polyps(root, ".jpg") / "kavsir_bboxes.json").write_text("{}")
    return root


def write_clinicdb(root: Path) -> Path:
    """As it was first published: TIF and PNG side by side in some archives, TIF alone in others."""
    for kind, suffix in (("PNG", ".png"), ("TIF", ".tif")):
        for stem in ("1", "2"):
            picture(root / kind / "Original" / f"{stem}{suffix}")
            mask(root / kind / "Ground Truth" / f"{stem}{suffix}")
    return root


def write_clinicdb_tif(root: Path) -> Path:
    picture(root / "Original" / "1.tif")
    mask(root / "Ground Truth" / "1.tif")
    return root


def write_rsdds(root: Path) -> Path:
    """RSDDs: two types of rail, all defective, masks as JPEG."""
    for kind in ("I", "II"):
        base = root / f"Type-{kind} RSDDs dataset"
        for stem in ("rail_1", "rail_2"):
            picture(base / "Rail surface images" / f"{stem}.jpg")
            mask(base / "GroundTruth" / f"{stem}.jpg")
    return root


def write_rsdd_crops(root: Path) -> Path:
    """The crops that zero-shot papers use: `pos` and `neg`, a mask beside each picture."""
    for side, value in (("pos", 255), ("neg", 0)):
        picture(root / side / f"RSDD_I-metal-{side}-000001.jpg")
        mask(root / side / f"RSDD_I-metal-{side}-000001.png", value)
    return root


def write_rsdd_mvtec(root: Path) -> Path:
    """The same crops after their conversion: masks have their picture's own stem."""
    picture(root / "Metal15" / "test" / "good" / "a_0000000001.bmp")
    picture(root / "Metal15" / "test" / "anomaly" / "b_0000000000.bmp")
    mask(root / "Metal15" / "ground_truth" / "anomaly" / "b_0000000000.png")
    (root / "Metal15" / "train" / "good").mkdir(parents=True)
    picture(root / "Metal15" / "train" / "good" / "c.bmp")
    return root


PUBLISHED: Mapping[str, tuple[str, str, Callable[[Path], Path]]] = {
    "mvtec_anomaly_detection": ("mvtec_ad", "mvtec", write_mvtec_ad),
    "VisA_20220922": ("visa", "visa", write_visa),
    "BTech_Dataset_transformed": ("btad", "mvtec", write_btad),
    "MPDD": ("mpdd", "mvtec", write_mpdd),
    "RSDDs dataset": ("rsdd", "rails", write_rsdds),
    "RSDD200": ("rsdd", "posneg", write_rsdd_crops),
    "RSDD": ("rsdd", "mvtec", write_rsdd_mvtec),
    "Brain_AD": ("brain_mri", "bmad", write_brain),
    "MedAD/Brain_AD": ("brain_mri", "bmad", write_brain_repacked),
    "Liver_AD": ("liver_ct", "bmad", write_liver),
    "Retina_RESC_AD": ("retina_oct", "bmad", write_retina),
    "CVC-ColonDB": ("cvc_colondb", "pairs", write_polyps),
    "CVC-ClinicDB": ("cvc_clinicdb", "pairs", write_clinicdb),
    "Colon/CVC-ClinicDB": ("cvc_clinicdb", "pairs", write_clinicdb_tif),
    "Kvasir-SEG": ("kvasir", "pairs", write_kvasir),
}
"""Folder as it unpacks -> name of the set, its layout, and what writes it."""
