"""Two corpora that every machine has and that share no text: the prose and the code of Python's standard library."""

import dataclasses
import re

from lmlab.data.corpora import StandardLibrary
from lmlab.errors import UserError

QUOTED = re.compile(rb'"""(.*?)"""', re.DOTALL)


@dataclasses.dataclass(frozen=True)
class LibraryPart(StandardLibrary):
    """Of every source file what stands in triple quotes, mostly documentation in English ("prose"), or what does not
    ("code"). `max_bytes` is of the whole files."""

    part: str = "prose"

    def __post_init__(self):
        if self.part not in ("prose", "code"):
            raise UserError(f"A part of the standard library is prose or code, not {self.part!r}.")

    def documents(self):
        """Yields every distinct document once."""
        for document in super().documents():
            prose, code = QUOTED.findall(document.data), QUOTED.sub(b'""""""', document.data)
            data = b"\n\n".join(prose) if self.part == "prose" else code
            if data.strip():
                yield document._replace(data=data)

    def fingerprint(self):
        """Names the baked text."""
        return f"{super().fingerprint()}-{self.part}"
