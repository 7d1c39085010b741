"""The published data sets: one table of what each is called, where it belongs, and what its products are called.

A folder is told by how it lies (`acd_edge.data.layouts`) and then by its name and its categories. A folder in MVTec's
layout that is none of these is a set too, called like the folder; a folder that needs a name and has none is refused.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from acd_edge.config import Domain
from acd_edge.data.folders import PARTS, Report, folders, refuse
from acd_edge.data.layouts import LAYOUTS, Layout, mvtec_categories
from acd_edge.data.lists import list_jsonl
from acd_edge.data.reading import Part, Sample, categories_of
from acd_edge.errors import ConfigError, DataError

__all__ = [
    "DATA_SETS",
    "DataSet",
    "Listing",
    "canonical_name",
    "domain_of",
    "layout_of",
    "metrics_of",
    "open_data",
    "words_of",
]

_ANY = ""
_WRAPPERS = 2  # folders around a set, as some archives unpack
_INNER = ("PNG",)  # CVC-ClinicDB is published as PNG and as TIF, side by side


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """One published set.

    Attributes:
        name: what `--layout`, a checkpoint and the guard of zero-shot call it.
        title: what papers call it.
        domain: which use its pictures belong to.
        layouts: the layouts it is found in.
        words: category -> the product in plain English; the key "" stands for any category.
        known_as: parts of folder names that tell it, without case and punctuation.
        lists: names of the authors' lists of it, beside `known_as`.
        has_good: it has good pictures to test on; without them there are pixel figures only.
    """

    name: str
    title: str
    domain: Domain
    layouts: tuple[str, ...]
    words: Mapping[str, str]
    known_as: tuple[str, ...]
    lists: tuple[str, ...] = ()
    has_good: bool = True

    def called(self, category: str) -> str:
        """A category's words for the prompts."""
        return self.words.get(category) or self.words.get(_ANY) or plain(category)


def _polyps(name: str, title: str, *known_as: str, lists: tuple[str, ...]) -> DataSet:
    return DataSet(
        name=name, title=title, domain="medical", layouts=("pairs",), words={_ANY: "colon"}, known_as=known_as,
        lists=lists, has_good=False,
    )  # fmt: skip


def _bmad(name: str, title: str, words: str, *known_as: str, lists: tuple[str, ...]) -> DataSet:
    return DataSet(
        name=name, title=title, domain="medical", layouts=("bmad",), words={_ANY: words}, known_as=known_as, lists=lists
    )


def _named(*names: str, **others: str) -> dict[str, str]:
    """Words of categories: those whose name says it, and the others."""
    return {**{name: plain(name) for name in names}, **others}


def plain(category: str) -> str:
    """A category's name as words.

    >>> plain("metal_nut")
    'metal nut'
    """
    return category.replace("_", " ")


DATA_SETS: Mapping[str, DataSet] = {
    each.name: each
    for each in (
        DataSet(
            name="mvtec_ad",
            title="MVTec-AD",
            domain="industrial",
            layouts=("mvtec",),
            words=_named(
                *("bottle", "cable", "capsule", "carpet", "grid", "hazelnut", "leather", "metal_nut", "pill", "screw"),
                *("tile", "toothbrush", "transistor", "wood", "zipper"),
            ),
            known_as=("mvtec",),
        ),
        DataSet(
            name="visa",
            title="VisA",
            domain="industrial",
            layouts=("visa", "mvtec"),
            words=_named(
                *("candle", "capsules", "pipe_fryum"),
                cashew="cashew nut",
                chewinggum="chewing gum",
                fryum="fryum snack",
                macaroni1="macaroni",
                macaroni2="macaroni",
                **{f"pcb{number}": "printed circuit board" for number in (1, 2, 3, 4)},
            ),
            known_as=("visa",),
        ),
        DataSet(
            name="btad",
            title="BTAD",
            domain="industrial",
            layouts=("mvtec",),
            words={"01": "round part", "02": "striped surface", "03": "oval part"},  # the set names none of them
            known_as=("btad", "btech"),
        ),
        DataSet(
            name="mpdd",
            title="MPDD",
            domain="industrial",
            layouts=("mvtec",),
            words=_named(
                *("connector", "metal_plate"),
                bracket_black="black bracket",
                bracket_brown="brown bracket",
                bracket_white="white bracket",
                tubes="metal tubes",
            ),
            known_as=("mpdd",),
        ),
        DataSet(
            name="rsdd",
            title="RSDD",
            domain="industrial",
            layouts=("rails", "posneg", "mvtec"),
            words={_ANY: "rail surface"},
            known_as=("rsdd",),
        ),
        _bmad("brain_mri", "BMAD BrainMRI", "brain scan", "brain", "brats", lists=("brain",)),
        _bmad("liver_ct", "BMAD Liver CT", "liver scan", "liver", "histdiy", lists=("liver",)),
        _bmad("retina_oct", "BMAD Retina OCT", "retina scan", "retina", "resc", lists=("retina",)),
        _polyps("cvc_colondb", "CVC-ColonDB", "colondb", lists=("coloncolondb",)),
        _polyps("cvc_clinicdb", "CVC-ClinicDB", "clinicdb", lists=("colonclinicdb",)),
        _polyps("kvasir", "Kvasir", "kvasir", lists=("colonkvasir",)),
    )
}
"""Every set of the paper's Table 1, by name."""


@dataclass(frozen=True, kw_only=True)
class Listing:
    """A data set that was found.

    Attributes:
        path: what was given.
        name: of the set: a key of `DATA_SETS`, or what the folder of its pictures is called.
        layout: name of how it lies, `jsonl` for a list.
        samples: in a fixed order.
    """

    path: Path
    name: str
    layout: str
    samples: tuple[Sample, ...]

    @property
    def title(self) -> str:
        """What to call it in a table."""
        return DATA_SETS[self.name].title if self.name in DATA_SETS else self.name

    @property
    def domain(self) -> Domain:
        """A set that is not known is industrial."""
        return _domain(self.name)


def open_data(
    path: Path,
    root: Path | None = None,
    *,
    layout: str | None = None,
    parts: frozenset[Part] = PARTS,
    report: Report = refuse,
) -> Listing:
    """Find out what a folder or a `.jsonl` list is, and list its samples.

    Args:
        path: the folder or the list.
        root: what the paths inside a list are relative to; its own folder unless given.
        layout: the set's name in `DATA_SETS`, where folder and categories do not tell it.
        parts: which parts to list.
        report: told what is wrong; the default stops at the first thing that makes the set unusable.

    Raises:
        DataError: there is nothing, or it cannot be told what it is.
        ConfigError: `layout` is no set.
    """
    path = Path(path)
    if layout is not None and layout not in DATA_SETS:
        raise ConfigError(f"--layout {layout} is no data set that is known here: {', '.join(DATA_SETS)}")
    try:
        if path.is_dir():
            return _open_folder(path, layout, parts, report)
        if path.is_file():
            return _open_list(path, root, layout, report)
    except OSError as error:
        raise DataError(f"cannot read {error.filename or path}: {error.strerror or error}") from error
    raise DataError(f"no data set at {path}; give a folder that docs/data.md describes, or a .jsonl list")


def _open_list(path: Path, root: Path | None, layout: str | None, report: Report) -> Listing:
    base = path.parent if root is None else Path(root)
    name = layout or _known_list(path.stem) or base.resolve().name
    samples = tuple(replace(sample, data_set=name) for sample in list_jsonl(path, base, report))
    return Listing(path=path, name=name, layout="jsonl", samples=samples)


def _open_folder(path: Path, layout: str | None, parts: frozenset[Part], report: Report) -> Listing:
    found = layout_of(path)
    if found is None:
        raise DataError(
            f"{path} holds no category: no folder with train/ or test/ in it or one level below, and no other layout "
            "that docs/data.md describes"
        )
    root, form = found
    name = layout or _name_of(path, root, form)
    samples = (
        replace(sample, data_set=name, category=sample.category or name) for sample in form.list(root, parts, report)
    )
    return Listing(path=path, name=name, layout=form.name, samples=tuple(samples))


def layout_of(path: Path) -> tuple[Path, Layout] | None:
    """The first layout that a folder lies in, and where in it; None where it is no data set, such as bare pictures."""
    return next(((root, form) for form in LAYOUTS for root in _roots(path) if form.fits(root)), None)


def _roots(path: Path) -> list[Path]:
    """The folder, and what lies in it where it is a mere wrapper."""
    roots = [path]
    for _ in range(_WRAPPERS):
        inner = folders(roots[-1])
        chosen = [folder for folder in inner if folder.name in _INNER] or inner
        if len(chosen) != 1:
            break
        roots.append(chosen[0])
    return roots


def _name_of(path: Path, root: Path, form: Layout) -> str:
    """The set's name: of a known one, or of its folder.

    Raises:
        DataError: the layout has no categories to tell it by, and no name on the way says which set it is.
    """
    candidates = [known for known in DATA_SETS.values() if form.name in known.layouts]
    if form.name == "mvtec":
        categories = mvtec_categories(root)
        folder = root.resolve().parent if categories == [root] else root.resolve()
        names = [category.resolve().name for category in categories]
        return next((known.name for known in candidates if _claims(known, folder.name, names)), folder.name)
    if len(candidates) == 1 or form.names_category:
        return candidates[0].name
    for name in _names_inside_out(path, root):
        if len(claims := [known.name for known in candidates if _tells(known, name)]) == 1:
            return claims[0]
    choices = ", ".join(known.name for known in candidates)
    raise DataError(f"{path} lies like several data sets, and its name tells none of them; give --layout: {choices}")


def _claims(known: DataSet, folder: str, categories: Sequence[str]) -> bool:
    """Whether categories are a known set's: by the folder's name, or by half of its categories and no other one."""
    told = _tells(known, folder)
    if _ANY in known.words:
        return told
    return set(categories) <= set(known.words) and (told or 2 * len(categories) >= len(known.words))


def _tells(known: DataSet, name: str) -> bool:
    return any(part in _bare(name) for part in known.known_as)


def _names_inside_out(path: Path, root: Path) -> list[str]:
    """Names from the set's own folder outwards, to the one above what was given."""
    inside = root.resolve()
    depth = len(inside.parts) - len(path.resolve().parts) + 2
    return [inside.name, *(parent.name for parent in list(inside.parents)[: depth - 1])]


def _known_list(stem: str) -> str | None:
    bare = _bare(stem)
    told = (known.name for known in DATA_SETS.values() if bare in (_bare(known.name), *known.known_as, *known.lists))
    return next(told, None)


def canonical_name(name: str) -> str:
    """A set's name without the accidents of spelling, so that `VisA` is `visa`.

    >>> canonical_name("CVC-ClinicDB"), canonical_name("magnetic_tile")
    ('cvc_clinicdb', 'magnetictile')
    """
    return _known_list(name) or _bare(name)


def _bare(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.casefold())


def words_of(samples: Iterable[Sample], given: Container[str] = ()) -> dict[str, str]:
    """Category -> words for the prompts, from the sets that the samples are of; categories in `given` are left out.

    Raises:
        DataError: two sets call one category differently.
    """
    words: dict[str, str] = {}
    for sample in (sample for sample in samples if sample.category not in given):
        known = DATA_SETS.get(sample.data_set)
        called = known.called(sample.category) if known else plain(sample.category)
        if words.setdefault(sample.category, called) != called:
            raise DataError(
                f"{sample.category} is '{words[sample.category]}' in one data set and '{called}' in {sample.data_set}; "
                f"give --product {sample.category}='words', or take them one at a time"
            )
    return words


def domain_of(samples: Iterable[Sample]) -> Domain:
    """The domain of the sets that the samples are of; industrial where no set is known.

    Raises:
        DataError: the sets are of both domains.
    """
    sets = dict.fromkeys(sample.data_set for sample in samples)
    domains = {_domain(name) for name in sets}
    if len(domains) > 1:
        told = ", ".join(f"{name} {_domain(name)}" for name in sets)
        raise DataError(f"the data are of both domains ({told}); take them apart, or give --domain")
    return domains.pop() if domains else "industrial"


def _domain(name: str) -> Domain:
    return DATA_SETS[name].domain if name in DATA_SETS else "industrial"


def metrics_of(samples: Sequence[Sample]) -> list[str]:
    """Which figures the samples of one category allow: `pixel` needs a mask, `image` good and defective pictures."""
    has_mask = any(sample.mask is not None for sample in samples)
    labels = {sample.label for sample in samples}
    return [name for name, applies in (("pixel", has_mask), ("image", labels == {0, 1})) if applies]


def categories_by_name(samples: Iterable[Sample]) -> dict[str, list[Sample]]:
    """The samples of each category, in their order of appearance."""
    given = list(samples)
    return {name: [sample for sample in given if sample.category == name] for name in categories_of(given)}
