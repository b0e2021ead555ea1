"""The loading race: a folder of a gigabyte read to the end, and written, against transformers.

The folder is what the hub holds: a Llama of random float16 weights in shards. Loading ends when
every parameter has been read once, as both sides leave bytes in the file until they are looked at;
the file lies in the page cache for both. Saving ends with the last byte on the disk: ours sees to
that itself, for the peer the race does. The gate: every weight of what each side read and wrote
again is bit for bit the peer's.

Memory is told beside it: the peak of a fresh process that does the work once, above what it held
before, in units of the weights. Pages of the file that a process looks at count.
"""

import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch

from llmbook.bench import memory
from llmbook.bench.memory import Peak
from llmbook.bench.race import positive, run_pair
from llmbook.models import load
from llmbook.models.pretrained.files import Checkpoint

# width, layers, heads, key/value heads, feed-forward width, vocabulary: 64 kB, and 1.03 GB
SIZES = {"tiny": (32, 2, 4, 2, 64, 128), "gigabyte": (1536, 16, 16, 8, 4096, 32_000)}
SHARDS = 4
WORK = ("load", "save")


def add_arguments(parser):
    """What to race, and where the folders lie meanwhile."""
    add = parser.add_argument
    add("--work", nargs="+", choices=WORK, default=list(WORK), help="default: both")
    add("--layers", type=positive, help="of the model (default 16: a gigabyte; quick: 2)")
    add("--folder", type=Path, help="for the files (default: the system's temporary folder)")


def run(options, report):
    """Race loading and saving; `report` prints and records."""
    try:
        import transformers
    except ImportError as error:
        raise SystemExit("this race needs its peer: pip install transformers") from error
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    size = SIZES["tiny" if options.quick else "gigabyte"]
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        folder = Path(folder)
        weights = _write(transformers, folder / "model", size, options)
        for work in options.work:
            case = f"{work} {weights / 2**20:.3g} MB"
            report(case, _race, case, work, folder, options)
            for side in SIDES:
                peak = peak_memory(work, side, folder)
                if peak is not None:
                    print(f"{'':34} {side}: peak {peak / weights:.2f} × the weights", flush=True)


def _write(transformers, folder, size, options):
    """Make the folder as the peer writes it; returns the bytes of its weights."""
    width, layers, heads, kv_heads, inner, vocabulary = size
    config = transformers.LlamaConfig(
        hidden_size=width,
        num_hidden_layers=options.layers or layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        intermediate_size=inner,
        vocab_size=vocabulary,
        tie_word_embeddings=False,
    )
    torch.manual_seed(options.seed)
    model = transformers.LlamaForCausalLM(config).half()
    held = sum(p.numel() * p.element_size() for p in model.parameters())
    model.save_pretrained(folder, max_shard_size=held // SHARDS + 1)
    return held


def _race(case, work, folder, options):
    models = {side: loaded(folder / "model") for side, loaded in SIDES.items()}
    ours, theirs = models.values()
    for side, model in models.items():
        save(model, folder / side)
    wanted = dict(theirs.state_dict())
    errors = {side: _differences(folder / side, wanted) for side in SIDES}
    if work == "save":
        runs = {side: lambda s=side: save(models[s], folder / s) for side in SIDES}
    else:
        del ours, theirs, models, wanted
        runs = {side: lambda s=side: read_through(SIDES[s](folder / "model")) for side in SIDES}
    how = {"repeats": options.repeats, "warmup": options.warmup}
    return [run_pair(case, runs, errors, tolerance=0, device=torch.device("cpu"), **how)]


def _differences(folder, wanted):
    """How many tensors of a folder are not bit for bit the wanted ones."""
    with Checkpoint(folder) as written:
        same = [torch.equal(written.tensor(name), wanted[name]) for name in written.names]
        return sum(not equal for equal in same) + len(set(written.names) ^ set(wanted))


def ours(folder):
    """The folder's model by `llmbook`, in the file's dtype."""
    return load(folder, dtype="auto")


def theirs(folder):
    """The folder's model by `transformers`, in the file's dtype."""
    from transformers import LlamaForCausalLM

    return LlamaForCausalLM.from_pretrained(folder)


SIDES = {"ours": ours, "transformers": theirs}


def read_through(model):
    """Look at every byte of every parameter once; returns their sum."""
    total = np.uint64(0)
    with np.errstate(over="ignore"):
        for p in model.parameters():
            total += np.add.reduce(p.detach().flatten().view(torch.uint8).numpy().view(np.uint64))
    return total


def save(model, folder):
    """Write a model of either side into a new folder, in shards as it was read."""
    shutil.rmtree(folder, ignore_errors=True)
    held = sum(p.numel() * p.element_size() for p in model.parameters())
    if not hasattr(model, "save_pretrained"):
        model.save(folder, shard_bytes=held // SHARDS + 1)
        return
    model.save_pretrained(folder, max_shard_size=held // SHARDS + 1)
    for path in folder.glob("*.safetensors"):
        with open(path, "rb+") as file:
            os.fsync(file.fileno())


# --- memory


def measured(work, side, folder):
    """Bytes that a side takes above what it held before; to be called in a fresh process."""
    folder = Path(folder)
    SIDES[side](folder / "small")  # what is imported on first use
    with Peak() as loading:
        model = SIDES[side](folder / "model")
        read_through(model)
    if work == "load":
        return loading.bytes
    with Peak() as saving:
        save(model, folder / side)
    return saving.bytes


def peak_memory(work, side, folder):
    """Bytes that a side takes above what it held before, in a process of its own.

    folder: holds "model"; None where the system does not tell (anything but Linux).
    """
    if not memory.is_told():
        return None
    if not (folder / "small").is_dir():
        from llmbook.models.llama import Llama, LlamaConfig

        Llama(LlamaConfig(16, 8, 8, 1, 2, d_ff=16)).save(folder / "small")
    return memory.in_fresh_process(measured, work, side, str(folder))
