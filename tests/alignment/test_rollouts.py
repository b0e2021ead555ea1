"""Rollouts: what is scored is what was sampled, and nothing behind the end token is."""

import copy
import dataclasses
import json

import pytest
import torch
from helpers.alignment_subject import END, VOCAB, tiny_policy
from torch import nn

from llmbook.alignment.collapse import Collapsed, Watch
from llmbook.alignment.grpo import GRPO, GRPOConfig
from llmbook.alignment.lora import LoRA, LoRAConfig
from llmbook.alignment.rollouts import (
    NotFinite,
    _drawn,
    answer_token_log_probs,
    check_reference,
    needed_mask,
    pad_left,
    reference_log_probs,
    roll_out,
    scores,
)
from llmbook.decoding import generate
from llmbook.losses import IGNORED, log_probs
from llmbook.models import load
from llmbook.models.gpt import GPT, GPTConfig
from llmbook.models.mamba import Mamba, MambaConfig
from llmbook.models.mistral import Mistral, MistralConfig
from llmbook.ragged import Texts
from llmbook.seeds import generator

PROMPTS = [[3, 4, 5], [7], [2, 9, 1, 6, 8]]


def sampled(model=None, n=4, **options):
    options = {"max_new_tokens": 12, "seed": 1} | options
    return roll_out(model or tiny_policy(), PROMPTS, n, **options)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_log_probs_of_sampling_are_those_of_one_forward_pass(temperature):
    model = tiny_policy()
    rollouts = sampled(model, temperature=temperature)
    again = answer_token_log_probs(model, *rollouts.batch(), temperature)
    assert rollouts.ended.any() and not rollouts.ended.all()
    assert (again - rollouts.log_probs).abs().max() < 1e-5
    assert (rollouts.log_probs[~rollouts.mask] == 0).all()


def test_each_row_alone_and_unpadded_has_the_same_log_probs():
    model = tiny_policy()
    rollouts = sampled(model)
    for row, prompt in enumerate(rollouts.prompts):
        answer = rollouts.targets[row][rollouts.mask[row]]
        text = torch.tensor([*prompt, *answer])[None]
        with torch.no_grad():
            log_p = model(text)[0].log_softmax(-1)
        alone = log_p[len(prompt) - 1 : -1].gather(-1, answer[:, None])[:, 0]
        assert torch.allclose(alone, rollouts.log_probs[row][rollouts.mask[row]], atol=1e-5)


def test_an_answer_stops_at_its_end_token_which_counts():
    rollouts = sampled()
    assert rollouts.ended.any() and not rollouts.ended.all()
    for row, (ended, length) in enumerate(zip(rollouts.ended, rollouts.lengths, strict=True)):
        ids = rollouts.targets[row]
        assert (ids[length:] == IGNORED).all()
        assert (ids[: length - 1] != END).all()
        assert (ids[length - 1] == END) == ended
        assert length == ids.shape[0] or ended
        assert rollouts.answers[row] == [i for i in ids[:length].tolist() if i != END]


def test_prompts_come_back_in_order_each_with_its_answers_side_by_side():
    rollouts = sampled(n=3)
    assert rollouts.prompts == [p for p in PROMPTS for _ in range(3)]
    assert rollouts.input_ids.shape == (9, 5 + rollouts.targets.shape[1] - 1)
    # what is read is the prompt and the answer
    for row, length in enumerate(rollouts.lengths.tolist()):
        written = rollouts.input_ids[row, 5 : 5 + length - 1]
        assert written.tolist() == rollouts.targets[row, : length - 1].tolist()


def test_it_samples_from_the_policy():
    """χ² of the first tokens of many answers against the policy's own probabilities."""
    model = tiny_policy()
    rollouts = roll_out(model, [[3, 4]], 4000, max_new_tokens=1, seed=3)
    with torch.no_grad():
        p = model(torch.tensor([[3, 4]]))[0, -1].double().softmax(-1)
    seen = torch.bincount(rollouts.targets[:, 0], minlength=VOCAB).double()
    chi = ((seen - 4000 * p).square() / (4000 * p)).sum()
    assert chi < 50  # 10 degrees of freedom: p = 3e-7


@pytest.mark.parametrize("shape", [(1, 3), (5, 97), (32, 384)])
def test_a_token_is_drawn_as_multinomial_draws_it(shape):
    p = torch.randn(shape, generator=generator(0)).mul_(3).softmax(-1)
    p[:, 1] = 0
    ours, theirs = generator(1), generator(1)
    for _ in range(20):
        wanted = torch.multinomial(p, 1, generator=theirs)[:, 0]
        assert torch.equal(_drawn(p.clone(), ours), wanted)
    assert torch.equal(ours.get_state(), theirs.get_state())


def test_at_a_low_temperature_it_writes_the_greedy_answer():
    model = tiny_policy()
    rollouts = roll_out(model, PROMPTS[:1], 1, max_new_tokens=8, temperature=0.01)
    greedy = generate(model, torch.tensor(PROMPTS[:1]), max_new_tokens=8)[0, 3:].tolist()
    greedy = greedy[: greedy.index(END) + 1] if END in greedy else greedy
    assert rollouts.targets[0][rollouts.mask[0]].tolist() == greedy


def test_the_same_seed_gives_the_same_rollouts_and_a_generator_moves_on():
    first, again = sampled(), sampled()
    assert torch.equal(first.targets, again.targets)
    assert torch.equal(first.log_probs, again.log_probs)
    dice = generator(1, "dice")
    one, two = sampled(seed=dice), sampled(seed=dice)
    assert one.targets.shape != two.targets.shape or not torch.equal(one.targets, two.targets)


def test_a_wrapped_model_takes_the_long_way_to_the_same_rollouts():
    model = tiny_policy()
    short = sampled(model)
    model.register_forward_hook(lambda *_: None)
    long = sampled(model)
    assert torch.equal(short.targets, long.targets)
    assert (short.log_probs - long.log_probs).abs().max() < 1e-5


def test_without_an_end_every_answer_is_full():
    rollouts = sampled(tiny_policy(eos_id=None))
    assert not rollouts.ended.any() and rollouts.mask.all()
    assert rollouts.targets.shape == (12, 12)


def test_the_model_is_left_in_the_mode_it_was_in_and_dropout_sleeps_meanwhile():
    model = tiny_policy(dropout=0.5).train()
    rollouts = sampled(model)
    assert model.training
    again = reference_log_probs(model, rollouts)
    assert model.training and not again.requires_grad
    assert (again - rollouts.log_probs).abs().max() < 1e-5


# --- bad input


@pytest.mark.parametrize("prompts", [[], [[1], []]])
def test_prompts_without_a_token_are_refused(prompts):
    with pytest.raises(ValueError, match="prompts must be at least one list of ids"):
        pad_left(prompts)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"n": 0}, "n must be a whole number of at least 1"),
        ({"temperature": 0.0}, "temperature must be a number above 0"),
        ({"max_new_tokens": 0}, "max_new_tokens must be"),
        ({"max_new_tokens": 40}, "max_len=32"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        sampled(**changes)


def test_a_policy_of_nan_is_named():
    model = tiny_policy()
    with torch.no_grad():
        model.norm.weight.fill_(torch.nan)
    with pytest.raises(NotFinite, match="not finite at token 0"):
        sampled(model)


def test_a_reference_with_another_number_of_tokens_is_refused():
    model = tiny_policy()
    other = nn.Module()
    other.reads_source, other.config = False, dataclasses.replace(model.config, vocab_size=12)
    with pytest.raises(ValueError, match="got vocab_size 12, the policy's is 11"):
        check_reference(model, other)


def loaded(folder, words, kind="BPE"):
    """A model of VOCAB tokens from a folder whose tokenizer.json has these words."""
    tiny_policy().save(folder)
    vocab = {word: i for i, word in enumerate(words[:-1])}
    if kind == "Unigram":
        vocab = [[word, -1.0] for word in vocab]
    added = [{"id": len(words) - 1, "content": words[-1]}]
    content = {"model": {"type": kind, "vocab": vocab}, "added_tokens": added}
    (folder / "tokenizer.json").write_text(json.dumps(content))
    return load(folder)


@pytest.mark.parametrize("kind", ["BPE", "Unigram"])
@pytest.mark.parametrize("place", [3, VOCAB - 1])
def test_a_reference_of_another_tokenizer_is_refused_where_both_are_known(tmp_path, kind, place):
    ours = loaded(tmp_path / "a", "abcdefghijk")
    same = loaded(tmp_path / "b", "abcdefghijk", kind)
    words = list("abcdefghijk")
    words[place] = "z"
    other = loaded(tmp_path / "c", words, kind)
    for reference in (ours, copy.deepcopy(ours), same, tiny_policy()):
        check_reference(ours, reference)
    wanted = f"id {place} is 'z' in .*c.tokenizer.json, '{'abcdefghijk'[place]}' in"
    config = GRPOConfig(group=2, max_new_tokens=2)
    for policy in (ours, copy.deepcopy(ours), LoRA(copy.deepcopy(ours), LoRAConfig(rank=1))):
        with pytest.raises(ValueError, match=wanted):
            GRPO(policy, lambda step: [[1]], lambda rollouts, step: [], config, reference=other)


@pytest.mark.parametrize(
    "given, error, message",
    [
        (["good"] * 12, TypeError, "reward must be a number.*'good', for answer 0 at step 7"),
        ([0.0] * 11 + [float("nan")], ValueError, "got nan, for answer 11 at step 7"),
        ([1.0], ValueError, "for each of 12 answers: got 1"),
        ([None] * 12, TypeError, "got None"),
    ],
)
def test_a_reward_that_is_no_number_is_named_with_its_answer_and_step(given, error, message):
    with pytest.raises(error, match=message):
        scores(lambda rollouts, step: given, sampled(), 7)


def test_rewards_may_be_a_tensor():
    rollouts = sampled()
    given = torch.arange(12.0, requires_grad=True)
    assert torch.equal(scores(lambda *_: given, rollouts, 0), torch.arange(12.0))


# --- collapse


def empty_answers(rollouts):
    targets = torch.full_like(rollouts.targets, IGNORED)
    targets[:, 0] = END
    ended = torch.ones_like(rollouts.ended)
    return dataclasses.replace(rollouts, targets=targets, ended=ended)


def test_each_kind_of_collapse_is_named_with_its_step():
    rollouts, rewards = sampled(), torch.arange(12.0)
    watch = Watch(max_kl=20, empty=0.9, equal=3)
    watch(0, rollouts, rewards, 19.0)
    with pytest.raises(Collapsed, match="step 5.*25.0 nats an answer from its reference") as found:
        watch(5, rollouts, rewards, 25.0)
    assert found.value.step == 5
    with pytest.raises(Collapsed, match="step 6: the KL divergence from the reference is nan"):
        watch(6, rollouts, rewards, float("nan"))
    with pytest.raises(Collapsed, match="step 8: 100% of the answers are empty"):
        watch(8, empty_answers(rollouts), rewards)


def test_equal_rewards_are_a_collapse_only_when_they_stay():
    rollouts, watch = sampled(), Watch(equal=3)
    same, unlike = torch.ones(12), torch.arange(12.0)
    for step, rewards in enumerate([same, same, unlike, same, same]):
        watch(step, rollouts, rewards)
    with pytest.raises(Collapsed, match="step 5.*3 batches in a row.*the mean is 1"):
        watch(5, rollouts, same)


def test_a_mask_is_needed_for_padding_before_a_token_alone():
    right, left = torch.tensor([[1, 1, 0], [1, 1, 1]]), torch.tensor([[0, 1, 1], [1, 1, 1]])
    gap = torch.tensor([[1, 0, 1], [1, 1, 1]])
    assert needed_mask(right) is None and needed_mask(torch.ones(2, 3).bool()) is None
    assert needed_mask(left) is left and needed_mask(gap) is gap


@pytest.mark.parametrize("side", ["right", "left"])
def test_log_probs_without_a_needless_mask_are_those_with_it(side):
    torch.manual_seed(0)
    model = GPT(GPTConfig(vocab_size=11, max_len=9, d_model=16, n_layers=2, n_heads=2)).double()
    ids, targets = torch.randint(11, (2, 3, 7))
    kept = torch.arange(7) < torch.tensor([[7], [4], [1]])
    kept = kept if side == "right" else kept.flip(1)
    targets = torch.where(kept, targets, IGNORED)
    want = log_probs(model(ids, kept), targets)
    got = answer_token_log_probs(model, ids, kept, targets)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-12)


def rotating():
    shape = {"vocab_size": 11, "d_model": 16, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2}
    return Mistral(MistralConfig(**shape, d_ff=24, max_len=64, window=3))


def adapted():
    lora = LoRA(tiny_policy())
    with torch.no_grad():
        for B in lora.B.values():
            B.normal_(std=0.1)
    return lora


@pytest.mark.parametrize("make", [tiny_policy, rotating, adapted])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_a_prompt_read_once_gives_the_log_probs_and_gradients_of_one_read_in_every_row(
    make, temperature
):
    torch.manual_seed(0)
    model = make().double()
    prompts = [[1, 2, 3], [4], [5, 6, 7, 8, 9], [5, 6, 7, 8, 9], [1, 2, 3]]
    rollouts = roll_out(tiny_policy(), prompts, 4, max_new_tokens=9)
    assert len(rollouts.lengths.unique()) > 3  # ended at several places
    ids, mask, targets = rollouts.batch()
    answers = slice(ids.shape[1] - targets.shape[1], None)
    want = log_probs(model(ids, mask)[:, answers] / temperature, targets)
    got = answer_token_log_probs(model, ids, mask, targets, temperature)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-12)
    weights = torch.randn_like(want)
    learnt = [p for p in model.parameters() if p.requires_grad]
    gradients = [torch.autograd.grad((x * weights).sum(), learnt) for x in (want, got)]
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


def test_answers_to_one_prompt_share_its_tokens_and_padding_is_not_read():
    model, seen = tiny_policy(), []
    rollouts = roll_out(model, [[1, 2, 3, 4, 5]], 4, max_new_tokens=6)
    model.blocks[0].ffn.register_forward_pre_hook(lambda part, args: seen.append(args[0].shape))
    answer_token_log_probs(model, *rollouts.batch())
    read = int((rollouts.lengths - 1).sum())  # the last one of an answer is not read
    assert seen == [(1, 4 + 4 + read, 16)]  # four of the prompt, and its last for each answer


def test_a_model_that_reads_a_row_in_its_order_gets_each_prompt_in_every_row():
    torch.manual_seed(0)
    model = Mamba(MambaConfig(vocab_size=11, d_model=8, n_layers=1)).double()
    rollouts = roll_out(tiny_policy(), [[1, 2, 3], [4]], 3, max_new_tokens=5)
    ids, mask, targets = rollouts.batch()
    answers = slice(ids.shape[1] - targets.shape[1], None)
    want = log_probs(model(ids, mask)[:, answers], targets)
    got = answer_token_log_probs(model, ids, mask, targets)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-12)
    shared = Texts.of_answers(ids, mask, mask & (torch.arange(ids.shape[1]) < 2))
    with pytest.raises(ValueError, match="documents must share no prompt: Mamba reads a row in"):
        model(ids, documents=shared)


def test_the_threads_are_as_many_after_rollouts_as_before():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        roll_out(tiny_policy(), [[1, 2], [3]], 40, max_new_tokens=5)
        assert torch.get_num_threads() == 2
        broken = tiny_policy()
        with torch.no_grad():
            broken.head.weight[:] = torch.nan
        with pytest.raises(NotFinite):
            roll_out(broken, [[1, 2]], 40, max_new_tokens=5)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
