"""Images of booted templates stay as long as the directories that they stand on."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloister.runtime.gvisor.bootimages import MEMORY, BootImages
from cloister.runtime.gvisor.manifest import Manifest


@pytest.fixture
def trees(tmp_path: Path) -> dict[str, Path]:
    """The directories of a sandbox, by their part in it."""
    made = {part: tmp_path / "store" / part for part in ("layer", "interpreter", "agent")}
    for path in made.values():
        path.mkdir(parents=True)
    return made


@pytest.fixture
def images(tmp_path: Path) -> BootImages:
    """Without an image."""
    return BootImages(tmp_path / "images")


def _make(images: BootImages, key: str, trees: dict[str, Path]) -> None:
    manifest = Manifest(
        version="1", first_id=1, layers=[str(trees["layer"])], interpreter=[str(trees["interpreter"])], agent=str(trees["agent"])
    )

    def work(directory: Path) -> None:
        (directory / MEMORY).mkdir()
        manifest.write(directory / MEMORY)

    images.make(key, work)


@pytest.mark.parametrize("part", ["layer", "interpreter", "agent"])
def test_an_image_goes_with_each_of_its_directories(images: BootImages, trees: dict[str, Path], tmp_path: Path, part: str) -> None:
    """Another template's image stays."""
    other = {**trees, part: tmp_path / "other"}
    other[part].mkdir()
    _make(images, "one", trees)
    _make(images, "two", other)
    assert images.drop_stale() == []
    trees[part].rmdir()
    assert images.drop_stale() == ["one"]
    assert images.find("one") is None
    assert images.find("two") is not None


def test_an_image_without_a_manifest_goes(images: BootImages) -> None:
    """No sandbox can begin from it."""
    images.make("one", lambda _directory: None)
    assert images.drop_stale() == ["one"]
    assert images.find("one") is None


def test_an_image_that_is_being_made_stays(images: BootImages, trees: dict[str, Path]) -> None:
    """It has no manifest yet."""
    found: list[list[str]] = []

    def work(directory: Path) -> None:
        found.append(images.drop_stale())
        assert directory.is_dir()

    images.make("one", work)
    assert found == [[]]
