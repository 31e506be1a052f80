"""A folder of class folders: PATH/CLASS/*.jpg, or PATH/train/CLASS/*.jpg and so on."""

from pathlib import Path

from vgg_jax.data import splits
from vgg_jax.data.files import SUFFIXES, FileSource, class_folders, existing_folder, files_below
from vgg_jax.errors import DataError

_FOLDERS = {"train": ("train",), "validation": ("validation", "val"), "test": ("test",)}


class FolderSource(FileSource):
    """Images in class folders; the classes are the folders' names, sorted.

    With train, validation (or val) and test below it, a role is that folder; where there is no test, validation stands
    in, and the note says so. Without any of them, the images are divided 80 / 10 / 10 by a hash of their path below
    PATH: an image keeps its role when others come or go.
    """

    def __init__(self, path: str, split: str):
        root = existing_folder(path)
        divided = {role: name for role, names in _FOLDERS.items() for name in names if (root / name).is_dir()}
        classes = class_folders(root / "train") if "train" in divided else ()
        notes, ignored = [], {}

        def of_role(role: str) -> list[tuple[Path, int]]:
            nonlocal classes
            of, note = splits.role_or_substitute(role, divided, "folder") if divided else (role, "")
            home = root / divided.get(of, "")
            images, ignored[home] = _images(home)
            classes = classes or tuple(sorted(images))
            _check_classes(classes, tuple(sorted(images)), of)
            notes.append(note if divided else f"{role} by a hash of the path, 80/10/10")
            files = [(file, label) for label, name in enumerate(classes) for file in images[name]]
            if divided:
                return files
            files = [
                (file, label) for file, label in files if splits.hashed_role(file.relative_to(root).as_posix()) == role
            ]
            if not files:
                raise DataError(f"split {split!r}: none of its few images falls into this tenth; make {role}/ below it")
            return files

        files = splits.select(split, of_role)
        notes += [f"other files left alone: {sum(ignored.values())}"] if any(ignored.values()) else []
        super().__init__(
            [str(file) for file, _ in files],
            [label for _, label in files],
            name=f"folder:{path}",
            split=split,
            classes=classes,
            note="; ".join(filter(None, notes)),
        )


def _images(home: Path) -> tuple[dict[str, list[Path]], int]:
    """Images of each class below a folder, sorted, and how many other files lie among them."""
    names = class_folders(home)
    if not names:
        raise DataError(f"no class folders in {home}; images belong in {home}/CLASS/")
    images, ignored = {}, 0
    for name in names:
        files = files_below(home / name)
        images[name] = [file for file in files if file.suffix.lower() in SUFFIXES]
        ignored += len(files) - len(images[name])
    empty = [name for name in names if not images[name]]
    if empty:
        raise DataError(f"no images ({' '.join(sorted(SUFFIXES))}) in {home / empty[0]}{_others(empty)}")
    return images, ignored


def _check_classes(expected: tuple[str, ...], found: tuple[str, ...], role: str) -> None:
    """Labels are positions in the sorted names, so two splits must have the very same ones."""
    missing, extra = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    if missing or extra:
        differences = [f"{role} lacks {missing[0]!r}{_others(missing)}"] if missing else []
        differences += [f"train lacks {extra[0]!r}{_others(extra)}"] if extra else []
        raise DataError(f"the classes of train and {role} differ: {'; '.join(differences)}")


def _others(names: list[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""
