"""Columns of a Hugging Face dataset: which hold images and classes, and what the classes are."""

import datasets


def describe_columns(dataset):
    """Names and types of a dataset's columns, for a message."""
    return ", ".join(f"{name} ({getattr(f, 'dtype', None) or f})" for name, f in dataset.features.items())


def find_column(dataset, argument, name, feature_type):
    """The column asked for, or the first of the type, or None."""
    if name is None:
        return next((name for name, feature in dataset.features.items() if isinstance(feature, feature_type)), None)
    if name not in dataset.features:
        raise ValueError(f"`{argument}` must be one of the columns {describe_columns(dataset)}, got {name!r}.")
    return name


def read_classes(dataset, column):
    """Class names of a label column, and {value: class id} if its values are not ids. Every row must have a class."""
    feature = dataset.features[column]
    if isinstance(dataset, datasets.IterableDataset):
        if isinstance(feature, datasets.ClassLabel):
            return feature.names, None
        raise ValueError(f"`label_column` must be a ClassLabel column when streaming, {column!r} is {feature}.")
    values = dataset.select_columns([column]).with_format("arrow")[:][column]
    if values.null_count:
        raise ValueError(f"`label_column` {column!r} has {values.null_count} rows without a class.")
    dtype = getattr(feature, "dtype", "")
    if dtype in ("string", "large_string"):
        names = sorted(values.unique().to_pylist())
        return names, {name: i for i, name in enumerate(names)}
    if not dtype.startswith(("int", "uint")):
        raise ValueError(f"`label_column` must hold ClassLabel, integers or strings, {column!r} is {feature}.")
    low, high = values.to_numpy().min(), values.to_numpy().max()
    names = feature.names if isinstance(feature, datasets.ClassLabel) else [str(i) for i in range(high + 1)]
    if low < 0 or high >= len(names):
        raise ValueError(
            f"`label_column` must hold class ids 0..{len(names) - 1}, {column!r} has {low}..{high} "
            "(test splits often come without classes)."
        )
    return names, None
