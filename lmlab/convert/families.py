"""`lmlab convert`: which files are read and written how."""

import os

from lmlab.convert import hnet, huggingface, llama2c
from lmlab.convert.gpt2 import GPT2
from lmlab.convert.llama import LLAMA
from lmlab.convert.whole import write
from lmlab.errors import UserError
from lmlab.text.tokenizer_file import FileTokenizer, TokenizerFile
from lmlab.training import checkpoints

FAMILIES = {"gpt2": GPT2, "llama": LLAMA}


def import_checkpoint(family, file, config_file, out, tokenizer=None):
    """Convert a checkpoint of the family "gpt2", "hnet" or "llama" to the new directory `out`. `config_file`: the
    config.json that came with it; None for a .bin of llama2.c, which holds its own. `tokenizer`: its file or folder, to
    keep beside the weights: without it the model takes ids only."""
    if tokenizer is not None and family == "hnet":
        raise UserError("H-Net reads bytes: it has no tokenizer.")
    tokenizer = None if tokenizer is None else TokenizerFile(tokenizer).read()
    if not isinstance(tokenizer, FileTokenizer | None):
        raise UserError("A published checkpoint has a published tokenizer, not multi-word tokens over one.")
    if family == "llama" and config_file is None and file.endswith(".bin"):
        checkpoints.absent(os.path.normpath(out))
        return huggingface.save(LLAMA, *llama2c.read(file), {"format": "pt"}, out, tokenizer)
    if not config_file:
        raise UserError("A checkpoint needs --config FILE, the config.json that came with it.")
    if family == "hnet":
        return hnet.import_checkpoint(file, config_file, out)
    return huggingface.import_checkpoint(FAMILIES[family], file, config_file, out, tokenizer)


def export_checkpoint(family, directory, out, dtype=None):
    """Convert a directory to the new file `out` of the family: .pt, .safetensors, or .bin for llama2.c."""
    if family == "hnet":
        return hnet.export_checkpoint(directory, out, dtype)
    if family == "llama" and out.endswith(".bin"):
        checkpoints.absent(out)
        data, weights, _ = huggingface.load(LLAMA, directory)
        return write(out, lambda new: llama2c.write(new, data, weights))
    return huggingface.export_checkpoint(FAMILIES[family], directory, out, dtype)
