"""An extension of mkdocstrings: the comment above a field of a class is its description."""

import griffe

from rmat_jax.keys import comment_above


class Comments(griffe.Extension):
    """Gives each attribute that has no docstring the comment above it."""

    def on_attribute_instance(self, *, attr: griffe.Attribute, **kwargs) -> None:
        if attr.docstring is None and attr.lineno and attr.parent.is_class:
            text = comment_above(attr.lines_collection[attr.filepath], attr.lineno - 1)
            if text:
                attr.docstring = griffe.Docstring(text, parent=attr, lineno=attr.lineno)
