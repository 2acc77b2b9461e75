"""The structure of an HDF5 file, checked before Keras follows anything in it."""

from __future__ import annotations

from typing import Any

from tracer.errors import InputError, RefusedError

_LARGE = 1 << 30
_RATIO = 64


def check(file: Any, label: str) -> None:
    """Walk an open ``h5py.File`` without following links out of it.

    Raises RefusedError for external and soft links, external storage, virtual datasets, cycles, and datasets that
    declare far more than they store; InputError when the file cannot be walked.
    """
    import h5py

    def visit(group: Any, path: str, above: tuple[Any, ...]) -> None:
        address = h5py.h5o.get_info(group.id).addr
        if address in above:
            raise RefusedError(f"{label}: group {path or '/'} contains itself")
        if len(above) > 64:
            raise RefusedError(f"{label}: groups are nested more than 64 deep")
        for name in group:
            place = f"{path}/{name}"
            link = group.get(name, getlink=True)
            if isinstance(link, h5py.ExternalLink):
                raise RefusedError(f"{label}: {place} is a link to another file ({link.filename})")
            if isinstance(link, h5py.SoftLink):
                raise RefusedError(f"{label}: {place} is a soft link")
            item = group[name]
            if isinstance(item, h5py.Group):
                visit(item, place, (*above, address))
            elif isinstance(item, h5py.Dataset):
                _dataset(item, place, label)

    try:
        visit(file, "", ())
    except RefusedError:
        raise
    except Exception as error:  # libhdf5 raises half a dozen classes on damaged files
        text = (str(error).splitlines() or [type(error).__name__])[0][:160]
        raise InputError(f"{label} is a damaged HDF5 file: {text}") from None


def _dataset(item: Any, place: str, label: str) -> None:
    if item.external:
        raise RefusedError(f"{label}: {place} keeps its values in another file ({item.external[0][0]})")
    if item.is_virtual:
        raise RefusedError(f"{label}: {place} is a virtual dataset over other files")
    declared = int(item.size or 0) * item.dtype.itemsize
    stored = int(item.id.get_storage_size())
    if declared > _LARGE and declared > _RATIO * max(stored, 1):
        raise RefusedError(f"{label}: {place} declares {declared >> 20} MiB but stores {stored >> 20} MiB")
