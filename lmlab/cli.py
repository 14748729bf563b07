"""The command line: parses, calls, prints. Bad input ends in one sentence and exit code 2."""

import argparse
import os
import sys

from lmlab.commands import look, show, sweep, tables, tools, train
from lmlab.errors import Stopped, UserError


def main(argv=None):
    """Entry point of `lmlab`."""
    args = _parser().parse_args(argv)
    try:
        args.call(args)
    except UserError as error:
        print(f"lmlab: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except Stopped as stopped:
        print(f"lmlab: {stopped}", file=sys.stderr)
        sys.exit(stopped.exit_code)
    except KeyboardInterrupt:
        print("lmlab: interrupted; the same command resumes.", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parser():
    parser = argparse.ArgumentParser(prog="lmlab", description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name, call, help):
        sub = commands.add_parser(name, help=help, description=help)
        sub.set_defaults(call=call)
        return sub

    def at_scale(sub):
        sub.add_argument("--scale", default="smoke", help="smoke, small, mid or paper (default: smoke)")
        sub.add_argument("--corpus", metavar="PATH", help="file or folder to read instead of the arm's own corpus")
        sub.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="override any field")

    command("list", show.list_experiments, "list experiments, their arms and scales")

    sub = command("show", show.show, "show a resolved run with parameters and FLOPs per byte, or a paper's arms side by side")
    sub.add_argument("name", help="paper or paper/arm, such as hnet/hnet_1stage")
    at_scale(sub)

    sub = command("train", train.train, "train one arm; the same command resumes it")
    sub.add_argument("name", help="paper/arm")
    at_scale(sub)
    sub.add_argument("--seed", type=int, default=0)
    sub.add_argument("--dir", help="run directory (default: runs/PAPER/SCALE/ARM/seedN)")
    sub.add_argument("--device", choices=["cpu", "gpu", "tpu"], help="fail where this is missing (default: the best)")
    sub.add_argument("--profile", metavar="FIRST:END", help="trace these steps (END not among them) into DIR/profile")
    sub.add_argument("--distributed", action="store_true", help="one of several processes, with a common run directory")
    sub.add_argument("--coordinator", metavar="HOST:PORT", help="of process 0, where the machine does not know it")
    sub.add_argument("--processes", type=int, metavar="N", help="how many there are, likewise")
    sub.add_argument("--process", type=int, metavar="I", help="which of them this is, likewise")

    sub = command("table", tables.table, "train every arm of a paper's tables, print them and write report.html")
    sub.add_argument("name", help="paper")
    at_scale(sub)
    sub.add_argument("--seeds", default="0", help="comma-separated (default: 0)")
    sub.add_argument("--dir", default="runs", help="folder of run directories (default: runs)")

    sub = command("sweep", sweep.sweep, "train every arm of a paper's tables with each value of a field: which validates best?")
    sub.add_argument("name", help="paper")
    sub.add_argument("field", help="such as optimizer.learning_rate")
    sub.add_argument("values", help="comma-separated, such as 2e-3,4e-3,8e-3")
    at_scale(sub)
    sub.add_argument("--seed", type=int, default=0)
    sub.add_argument("--dir", default="runs", help="folder of run directories (default: runs)")

    sub = command("results", tables.results, "print a paper's tables as measured and committed, without training")
    sub.add_argument("name", help="paper")
    sub.add_argument("--scale", default="small", help="smoke, small, mid or paper (default: small)")
    sub.add_argument("--markdown", action="store_true", help="as in experiments/README.md")

    sub = command("sample", look.sample, "continue a prompt with a trained model")
    sub.add_argument("directory", help="run directory or converted model")
    sub.add_argument("--prompt", default="def ", help="text to continue")
    sub.add_argument("--bytes", type=int, default=256, help="about how many new bytes")
    sub.add_argument("--temperature", type=float, default=0.8)
    sub.add_argument("--top-p", type=float, default=0.95)
    sub.add_argument("--seed", type=int, default=0)

    sub = command("inspect", look.inspect, "show chunk boundaries and per-byte surprisal of a text under a trained model")
    sub.add_argument("directory", help="run directory or converted model")
    sub.add_argument("file", nargs="?", help="text file (default: an excerpt of the run's test split)")
    sub.add_argument("--step", type=int, metavar="N", help="print the batch that the run trains on in step N instead")

    sub = command("audit", look.audit, "find the tokens that a model of subwords was hardly trained on, in its weights")
    sub.add_argument("directory", help="run directory of one arm, or a converted model")
    sub.add_argument("--indicator", help="what is small where a token is unused: input_norm, output_norm, cosine, ...")
    sub.add_argument("--share", type=float, default=0.02, help="of the candidates that is flagged (default: 0.02)")
    sub.add_argument("--least", type=float, default=0.01, help="probability of a token that a model can use (default: 0.01)")
    sub.add_argument("--top", type=int, default=20, help="flagged tokens to print (default: 20)")

    sub = command("convert", tools.convert, "turn released weights into a directory that lmlab reads, or a directory back")
    sub.add_argument("family", choices=["gpt2", "hnet", "llama"], help="whose names and layouts")
    sub.add_argument("source", metavar="SRC", help="checkpoint file, or run directory or converted model")
    sub.add_argument("out", metavar="DST", help="new directory, or new .pt or .safetensors file (or .bin, for llama2.c)")
    sub.add_argument("--config", metavar="FILE", help="config.json that came with the checkpoint (llama2.c's .bin needs none)")
    sub.add_argument("--tokenizer", metavar="FILE", help="tokenizer's file or folder that came with it, to sample text")
    sub.add_argument("--dtype", choices=["float32", "bfloat16"], help="of the new file (default: as stored)")

    sub = command("transfer", tools.transfer, "give a model another tokenizer, without training or by distillation")
    sub.add_argument("directory", metavar="DIR", help="run directory or converted model")
    sub.add_argument("out", metavar="OUT", help="new directory")
    sub.add_argument("--tokenizer", metavar="FILE", help="the new one: a tokenizer's file or folder, a run directory, or bytes")
    methods = ("zero", "mean", "random", "fvt", "focus", "tokenadapt", "tokenadapt_local", "tokenadapt_global", "omp",
               "hypernetwork")
    sub.add_argument("--method", choices=methods,
                     help="of new rows (default: fvt, or the hypernetwork if there is one)")
    sub.add_argument("--from", dest="source_tokenizer", metavar="FILE", help="the old one, where DIR does not hold it")
    sub.add_argument("--donor", metavar="DIR", help="for omp: a model with the new tokenizer, which then may be left out")
    sub.add_argument("--k", type=int, default=64, help="for omp: rows in a sum (default: 64)")
    sub.add_argument("--hypernetwork", metavar="DIR", help="run directory of a hypernetwork for this model, such as of "
                     "zett/hypernetwork: it predicts the rows")
    sub.add_argument("--phrases", type=int, metavar="N", help="the new tokenizer is the old one and the N most frequent runs of "
                     "two or three words of the corpus")
    sub.add_argument("--words", type=int, metavar="N", help="likewise, and the N most frequent words that it writes in several "
                     "tokens")
    sub.add_argument("--distill", action="store_true", help="then train it to be as likely to say each stretch of text as the "
                     "old one is (ALM): OUT is a run directory, and the same command resumes it")
    sub.add_argument("--corpus", metavar="PATH", help="file or folder for --phrases, --words and --distill (default: the standard "
                     "library)")
    sub.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="for --distill: override any field")
    sub.add_argument("--device", choices=["cpu", "gpu", "tpu"], help="for --distill: fail where this is missing")

    sub = command("data", tools.data, "bake the corpus of an arm and describe it")
    sub.add_argument("name", help="paper/arm")
    at_scale(sub)
    sub.add_argument("--verify", action="store_true", help="check every file against its SHA-256")

    sub = command("compile", tools.compile_step, "compile an arm's training step for TPUs that are not here: does it fit, how fast?")
    sub.add_argument("name", nargs="?", help="paper/arm, or paper for all of its arms")
    sub.add_argument("--all", action="store_true", help="every arm of every paper, into the table of tpu/README.md")
    at_scale(sub)
    sub.set_defaults(scale="paper")
    sub.add_argument(
        "--topology",
        help="generation and shape of a slice, such as v5e:8x8 (default: v5p:4x4x4, or the largest smaller one over "
        "which the rows divide; if not even over four chips, v5e:1x1)",
    )
    sub.add_argument("--slices", type=int, default=1, help="slices, joined by the data center's network (default: 1)")
    sub.add_argument("--quick", action="store_true", help="let XLA optimise less: a third of the time")
    sub.add_argument("--table", metavar="FILE", help="write each arm's row into the table of this file")

    sub = command("bench", tools.bench, "measure speed on this machine, beside what a user would pick instead")
    sub.add_argument("what", choices=["train", "decode", "chunking", "kernels", "text"])
    sub.add_argument("--repeats", type=int, default=5)
    return parser


if __name__ == "__main__":
    main()
