"""Ranges from a stream: against numpy on all values at once, and in bounded memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from acd_edge.calib.pictures import find_pictures, pictures_below
from acd_edge.calib.ranges import BINS, METHODS, Magnitudes, entropy_range
from acd_edge.cli.export_precision import CALIB_COUNT, METHOD_NAMES, Wanted, pictures_of
from acd_edge.errors import ConfigError, DataError, SourceError


def streamed(*batches: np.ndarray) -> Magnitudes:
    seen = Magnitudes()
    for batch in batches:
        seen.add(batch)
    return seen


@pytest.mark.parametrize("percentile", [50.0, 99.0, 99.9, 100.0])
def test_percentile_is_numpy_s_to_one_bin(percentile: float) -> None:
    rng = np.random.default_rng(0)
    values = [rng.standard_normal((5, 4000)).astype(np.float32) * factor for factor in (0.1, 1, 3)]  # it must widen
    seen = streamed(*values)
    wanted = float(np.percentile(np.abs(np.concatenate(values)), percentile, method="inverted_cdf"))
    assert wanted <= seen.range("percentile", percentile) + 1e-6
    assert seen.range("percentile", percentile) == pytest.approx(wanted, abs=2 * seen.top / BINS)
    assert seen.total == 60_000
    assert len(seen.counts) == BINS


def test_order_of_the_stream_does_not_matter_much() -> None:
    """Joining bins loses resolution, never counts."""
    rng = np.random.default_rng(1)
    small, large = rng.standard_normal(5000), 40 * rng.standard_normal(5000)
    one, other = streamed(small, large), streamed(large, small)
    assert one.total == other.total == 10_000
    assert one.largest == other.largest
    assert one.range("percentile", 90) == pytest.approx(other.range("percentile", 90), rel=5e-3)


def test_minmax_is_the_largest_and_entropy_cuts_a_lonely_outlier() -> None:
    values = np.random.default_rng(2).standard_normal(200_000)
    seen = streamed(values, np.array([-60.0]))
    assert seen.range("minmax") == 60.0
    assert 2.0 < seen.range("entropy") < 10.0
    assert seen.range() == pytest.approx(60.0, abs=2 * seen.top / BINS)  # the default keeps what comes once in 200,000


def test_entropy_keeps_what_int8_can_tell() -> None:
    """Values on 100 levels lose nothing at any end beyond the last: the last that is filled is enough."""
    counts = np.zeros(BINS, np.int64)
    counts[:128] = 10
    assert entropy_range(counts) == 128


@pytest.mark.parametrize("batch", [[np.nan], [np.inf, 1.0]])
def test_a_value_that_is_none_is_refused(batch: list[float]) -> None:
    with pytest.raises(DataError, match="NaN or infinite"):
        streamed(np.array(batch))


def test_refusals() -> None:
    with pytest.raises(DataError, match="no picture"):
        Magnitudes().range()
    with pytest.raises(ConfigError, match="percentile, minmax, entropy"):
        streamed(np.ones(3)).range("guess")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="at most 100"):
        streamed(np.ones(3)).range("percentile", 101)


def test_zeros_only() -> None:
    assert streamed(np.zeros(7), np.ones(1)).range("minmax") == 1.0
    assert streamed(np.zeros(7)).range() == 0.0


def test_the_smallest_numbers_are_counted_too() -> None:
    """What a GELU leaves of large negative values: a reciprocal of these is infinite in float32."""
    tiny = np.array([1e-42, 5e-43, 0.0], np.float32)
    assert streamed(tiny).total == 3
    assert streamed(tiny).range() == float(tiny[0])
    assert streamed(tiny, np.ones(5)).range("percentile", 50) == pytest.approx(1.0, abs=2 / BINS)


def test_the_command_line_offers_what_there_is() -> None:
    assert METHOD_NAMES == METHODS
    assert CALIB_COUNT > 0


def test_pictures_are_spread_and_their_digest_is_of_their_bytes(tmp_path: Path) -> None:
    for index in range(10):
        Image.new("RGB", (5, 4), (index, 0, 0)).save(tmp_path / f"{index}.png")
    some = find_pictures(tmp_path, 5)
    assert [path.stem for path in some.paths] == ["0", "2", "4", "6", "8"]
    assert (some.found, [each.shape for each in some.read(28)]) == (10, [(28, 28, 3)] * 5)
    everything, five = find_pictures(tmp_path).sha256, some.sha256
    (tmp_path / "0.png").rename(tmp_path / "renamed.png")
    assert find_pictures(tmp_path).sha256 == everything != five


def test_pictures_are_read_with_their_bit_depth(tmp_path: Path) -> None:
    """Of a camera's 12 bits at full light: 255 of 255, where 16 would make it 16."""
    Image.fromarray(np.full((28, 28), 4095, np.uint16)).save(tmp_path / "a.png")
    for bits, level in ((12, 255), (None, 16)):
        wanted = Wanted(int8=True, calib=tmp_path, bit_depth=bits)
        found = pictures_of(wanted, print)
        assert found is not None
        assert {int(value) for picture in found.read(28) for value in np.unique(picture)} == {level}


def test_folders_that_cannot_serve(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="not a folder"):
        find_pictures(tmp_path / "nothing")
    (tmp_path / "a.txt").touch()
    with pytest.raises(SourceError, match="no picture"):
        find_pictures(tmp_path)
    with pytest.raises(ConfigError, match="one picture"):
        find_pictures(tmp_path, 0)
    with pytest.raises(SourceError, match="no picture; name a folder"):
        find_pictures(tmp_path)


def test_masks_of_a_data_set_are_left_out(tmp_path: Path) -> None:
    """But not where the folder itself was named."""
    places = ["nut/test/spot/0.png", "nut/ground_truth/spot/0_mask.png", "images/1.png", "Masks/1.png"]
    for place in places:
        (tmp_path / place).parent.mkdir(parents=True)
        Image.new("RGB", (5, 4)).save(tmp_path / place)
    some = find_pictures(tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in some.paths] == ["images/1.png", "nut/test/spot/0.png"]
    assert (some.found, some.masks) == (2, 2)
    assert pictures_below(tmp_path) == some.paths
    assert len(pictures_below(tmp_path / "Masks")) == 1
    (tmp_path / "nut/test/spot/0.png").unlink()
    with pytest.raises(SourceError, match="no picture but 1 in folders of masks"):
        find_pictures(tmp_path / "nut")


def test_a_folder_whose_name_is_a_number_is_no_camera(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("0").mkdir()
    Image.new("RGB", (5, 4)).save("0/a.png")
    assert find_pictures(Path("0")).paths == (Path("0/a.png"),)
