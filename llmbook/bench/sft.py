"""The fine-tuning race: one packed SFT update of ours against trl's SFTTrainer's.

Both have the small model's weights (grown by the template's tokens) and the same conversations,
packed into one row after the other with document masks; an update is forward, backward, clipping,
AdamW, gradients cleared. trl's update is its `training_step` and its optimiser's step; packing,
tokenizing and logging are left out on both sides. trl is an extra: `pip install llmbook[oracles]`.

The gate: the gradient of the first update, of the embedding and of every block's matrices, against
ours in float64.
"""

import tempfile
from pathlib import Path

import torch

from llmbook.alignment import chat, sft
from llmbook.alignment.lora import LoRA, LoRAConfig
from llmbook.bench.memory import Peak, in_fresh_process
from llmbook.bench.race import relative_error, run_pair
from llmbook.data.verifiable import SEEN, mixture
from llmbook.models import load
from llmbook.models.gpt import GPT, GPTConfig
from llmbook.models.pretrained import SHIPPED
from llmbook.models.pretrained.layout import slots
from llmbook.tokenization import BPETokenizer
from llmbook.training import TrainConfig, Update

TOLERANCE = 1e-4
GPT2 = {"vocab_size": 50257, "max_len": 1024, "d_model": 768, "n_layers": 12, "n_heads": 12}
SIZES = {"quick": (16, 128), "cpu": (32, 256), "gpu": (256, 256)}  # conversations, tokens of a row


def add_arguments(parser):
    """How many conversations an update sees."""
    parser.add_argument("--size", choices=list(SIZES), help="default: cpu; quick: quick")
    parser.add_argument(
        "--memory",
        action="store_true",
        help="no race: peak memory of LoRA against all weights, at GPT-2's smallest shape",
    )


def run(options, report):
    """Race one size; `report` prints and records."""
    if options.memory:
        peaks = {rank: in_fresh_process(peak_of_updates, rank) for rank in (0, 8)}
        print(
            f"GPT-2's 124 M shape, batch 1, 128 tokens, AdamW: peak above the weights "
            f"{peaks[0] / 2**20:,.0f} MiB for all weights, {peaks[8] / 2**20:,.0f} MiB for LoRA "
            f"of rank 8, {peaks[8] / peaks[0]:.0%}"
        )
        return
    gpu = options.device.type == "cuda"
    size = options.size or ("quick" if options.quick else "gpu" if gpu else "cpu")
    conversations, row = SIZES[size]
    case = f"SFT, small-chat's shape, {conversations} conversations packed into rows of {row}"
    report(case, lambda: [_race(case, conversations, row, options)])


def _race(case, conversations, row, options):
    tokenizer = chat.chat_tokenizer(BPETokenizer.load(SHIPPED / "small"))
    end = tokenizer.special_tokens[chat.END]
    model = chat.grow(load("small"), len(tokenizer), eos_id=end).to(options.device)
    examples = mixture(SEEN, conversations, seed=options.seed)
    encoded = sft.encode_examples(tokenizer, examples, max_len=row)
    batch = tuple(t.to(options.device) for t in sft.pack(encoded, row))
    config = TrainConfig(
        steps=10**9, schedule="constant", warmup=0, lr=1e-4, precision="float32", batch_size=1
    )
    peer, theirs, their_loss = _trl(model, tokenizer, examples, row, options.device)
    truth = gradient_of(load_double(model), lambda m: sft.sft_loss(m, *batch))
    errors = {
        "ours": relative_error([gradient_of(model, lambda m: sft.sft_loss(m, *batch))], [truth]),
        "trl": relative_error([their_gradient(model, theirs, their_loss)], [truth]),
    }
    update = Update(model.train(), config, sft.sft_loss, sft.count_answer_tokens)
    return run_pair(
        case,
        {"ours": lambda: update(batch), "trl": peer},
        errors,
        tolerance=TOLERANCE,
        device=options.device,
        repeats=options.repeats,
        warmup=options.warmup,
    )


def peak_of_updates(rank, updates=2):
    """Bytes by which some updates raise the peak of this process's memory; rank 0: all weights.

    To be called in a fresh process.
    """
    torch.manual_seed(0)
    model = GPT(GPTConfig(**GPT2)).train()
    if rank:
        model = LoRA(model, LoRAConfig(rank=rank, alpha=2.0 * rank))
    config = TrainConfig(steps=10, warmup=0, batch_size=1, precision="float32")
    update = Update(model, config, sft.sft_loss, sft.count_answer_tokens)
    ids = torch.randint(GPT2["vocab_size"], (1, 129))
    batch = (ids[:, :-1].contiguous(), ids[:, 1:].contiguous(), torch.ones(1, 128).long())
    with Peak() as peak:
        for _ in range(updates):
            update(batch)
    return peak.bytes


def load_double(model):
    """A copy in float64."""
    import copy

    return copy.deepcopy(model).double()


def gradient_of(model, loss):
    """The gradient of every matrix in the blocks, and of the embedding, as one vector."""
    model.zero_grad()
    loss(model).backward()
    found = [p.grad.double().flatten() for n, p in sorted(model.named_parameters()) if p.ndim == 2]
    model.zero_grad(set_to_none=True)
    return torch.cat(found)


def their_gradient(model, theirs, loss):
    """The same of a model of transformers, in our order."""
    theirs.zero_grad()
    loss().backward()
    held, table = dict(theirs.named_parameters()), {}
    for slot in slots(model):
        if len(slot.shape) == 2:
            ((name, _),) = slot.parts
            grad = held[name].grad
            table[slot.ours] = (grad.t() if slot.transposed else grad).double().flatten()
    theirs.zero_grad(set_to_none=True)
    return torch.cat([table[name] for name in sorted(table)])


def _trl(model, tokenizer, examples, row, device):
    """One update of trl's trainer as a function, its model, and its loss as a function."""
    try:
        import datasets
        import transformers
        import trl
    except ImportError as error:
        raise ValueError("this race needs trl: pip install llmbook[oracles]") from error
    folder = Path(tempfile.mkdtemp())
    model.save(folder)
    tokenizer.save(folder)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder).to(device)
    library = transformers.AutoTokenizer.from_pretrained(folder)
    library.pad_token = "<|endoftext|>"
    trainer = trl.SFTTrainer(
        model=theirs,
        args=trl.SFTConfig(
            output_dir=str(folder / "out"),
            assistant_only_loss=True,
            packing=True,
            padding_free=True,
            max_length=row,
            per_device_train_batch_size=len(examples),
            use_cpu=device.type == "cpu",
            bf16=False,
            gradient_checkpointing=False,
            learning_rate=1e-4,
            weight_decay=0.1,
            report_to=[],
            eos_token=chat.END,
        ),
        processing_class=library,
        train_dataset=datasets.Dataset.from_dict({"messages": [e.messages for e in examples]}),
    )
    batch = {
        name: t.to(device) if isinstance(t, torch.Tensor) else t
        for name, t in trainer.data_collator(list(trainer.train_dataset)).items()
    }
    trainer.create_optimizer_and_scheduler(10**6)
    trainer.current_gradient_accumulation_steps = 1  # its own loop would set it
    theirs.train()

    def update():
        trainer.training_step(theirs, dict(batch))
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
        trainer.optimizer.step()
        trainer.optimizer.zero_grad()

    return update, theirs, lambda: trainer.compute_loss(theirs, dict(batch))
