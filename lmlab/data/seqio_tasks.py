"""seqio Tasks and Mixtures as corpora: TFDS sources and published preprocessing, baked once like any other text."""

import contextlib
import dataclasses
import difflib
import functools
import importlib

from lmlab.data.corpora import Document, split_of, unique
from lmlab.errors import UserError


@dataclasses.dataclass(frozen=True)
class SeqioTask:
    """The documents of a registered seqio Task or Mixture, after its own preprocessing.

    A document is the feature `targets` (ids are decoded by the task's own vocabulary) or, if the task has none,
    `text`. The task's splits are kept; a "validation" or "test" that it lacks is cut out of its "train", by content.
    A Mixture is the union of its tasks: every document once, whatever the rates.

    As with seqio's own caches, the name stands for the content: change the preprocessing, change the name.
    """

    name: str
    module: str = ""  # imported first, to register the task
    validation: float = 0.05  # share of the documents of train, if the task has no such split
    test: float = 0.05

    def documents(self):
        """Yields every distinct document once; one that train shares with a held-out split is held out."""
        yield from unique(self._all())

    def _all(self):
        import seqio
        import tensorflow as tf

        with contextlib.suppress(RuntimeError):  # already in use
            tf.config.set_visible_devices([], "GPU")  # TensorFlow would take all of the memory from JAX
        try:
            if self.module:
                importlib.import_module(self.module)
        except ImportError as error:
            raise UserError(f"Cannot import {self.module}, which should register {self.name}: {error}.") from error
        known = set(seqio.TaskRegistry.names()) | set(seqio.MixtureRegistry.names())
        if self.name not in known:
            near = ", ".join(difflib.get_close_matches(self.name, sorted(known), 3))
            hint = f"did you mean {near}?" if near else "is its module imported?"
            raise UserError(f"There is no seqio Task or Mixture named {self.name}; {hint}")
        task = seqio.get_mixture_or_task(self.name)
        if "train" not in task.splits:
            raise UserError(f"The seqio task {self.name} has no train split, only {', '.join(sorted(task.splits))}.")
        validation = 0 if "validation" in task.splits else self.validation
        test = 0 if "test" in task.splits else self.test
        for split in ("test", "validation", "train"):  # held-out text that train repeats stays held out
            if split not in task.splits:
                continue
            for i, data in enumerate(_texts(task, split)):
                into = split_of(data, validation, test) if split == "train" else split
                yield Document(f"{self.name}:{split}:{i}", data, into)

    def fingerprint(self):
        """Names the baked text; needs no TensorFlow, so that a baked task trains without it."""
        return f"seqio-{self.name}"


def _texts(task, split):
    """The bytes of every example of one split."""
    import seqio

    # A Mixture with several epochs would repeat; with one it ends when every task has.
    tasks = task.tasks if isinstance(task, seqio.Mixture) else [task]
    for part in tasks:
        if split not in part.splits:
            continue
        for example in part.get_dataset(sequence_length=None, split=split, shuffle=False).as_numpy_iterator():
            feature = "targets" if "targets" in example else "text"
            if feature not in example:
                raise UserError(f"The seqio task {part.name} has neither targets nor text.")
            value = example[feature]
            if isinstance(value, bytes):
                yield value
            else:
                yield _decode(part.output_features[feature].vocabulary, value)


def _decode(vocabulary, ids):
    import seqio

    if isinstance(vocabulary, seqio.ByteVocabulary):  # its own `decode` drops bytes that are not UTF-8
        return bytes(i - 3 for i in ids.tolist() if 3 <= i < 259)
    return vocabulary.decode(ids.tolist()).encode()


def register_tfds_task(name, tfds_name, text_key="text", data_dir=None):
    """Register (and return) a seqio Task of bytes: the feature `text_key` of a TFDS dataset, such as "lm1b:1.1.0".

    `data_dir`: where TFDS keeps its datasets, a gs:// bucket included; None: TFDS's own default.
    """
    import seqio

    return seqio.TaskRegistry.add(
        name,
        source=seqio.TfdsDataSource(tfds_name, tfds_data_dir=data_dir),
        preprocessors=[
            functools.partial(seqio.preprocessors.rekey, key_map={"targets": text_key}),
            functools.partial(seqio.preprocessors.tokenize, copy_pretokenized=False),
        ],
        output_features={"targets": seqio.Feature(seqio.ByteVocabulary(), add_eos=False)},
    )
