"""Beam search over a `Writer`: the likeliest texts, a few beginnings at a time.

    score(y) = log p(y | x) / ((5 + |y|) / 6)^α,  |y| in new tokens

Source: Wu et al. 2016; Vaswani et al. 2017 used it with α = 0.6 and 4 beams.
"""

import math

import torch


def search(writer, adjust, max_new_tokens, beams, alpha, ends, pad_id):
    """The best text of each row, among those that `beams` beams reach: (batch, begin + new).

    writer: a `Writer` at its beginning; adjust: (log-probabilities, tokens) → the same, or None;
    ends: ids that end a text; pad_id fills up shorter ones.
    """
    batch, begin = writer.tokens.shape
    device = writer.tokens.device
    waiting = [[] for _ in range(batch)]  # (score, tokens) of texts that have ended
    total = torch.zeros(batch, 1, device=device)  # log-probability of each beam
    # A beam ends in as many ways as there are ends: so many candidates hold `beams` that go on.
    wanted = beams * (1 + max(1, len(ends)))

    def penalty(length):
        return ((5 + length) / 6) ** alpha

    for length in range(1, max_new_tokens + 1):
        log_p = writer.next_logits().log_softmax(-1)
        if adjust is not None:
            log_p = adjust(log_p, writer.tokens)
        vocab, width = log_p.shape[-1], total.shape[1]
        joint = (total[..., None] + log_p.view(batch, width, vocab)).flatten(1)
        best = joint.topk(min(wanted, joint.shape[1]), dim=-1)
        last, rows, tokens, totals = length == max_new_tokens, [], [], []
        for b in range(batch):
            ranked = zip(best.values[b].tolist(), best.indices[b].tolist(), strict=True)
            going, ended = _sort_out(ranked, b * width, vocab, beams, ends, last)
            for score, row, token in ended:
                text = [*writer.tokens[row, begin:].tolist(), token]
                waiting[b].append((score / penalty(length), text))
            going += [(-math.inf, b * width, 0)] * (beams - len(going))  # beams that are none
            totals.append([score for score, _, _ in going])
            rows += [row for _, row, _ in going]
            tokens += [token for _, _, token in going]
            waiting[b] = sorted(waiting[b], key=lambda pair: -pair[0])[:beams]
        total = torch.tensor(totals, device=device)
        # Scores only fall while the text grows, and no penalty is larger than the last one.
        hope = (total[:, 0] / penalty(max_new_tokens)).tolist()
        if all(
            h == -math.inf or len(w) == beams and w[-1][0] >= h
            for w, h in zip(waiting, hope, strict=True)
        ):
            break
        if not last:
            writer.reorder(torch.tensor(rows, device=device))
            writer.append(torch.tensor(tokens, device=device))
    texts = [w[0][1] for w in waiting]
    longest = max(map(len, texts))
    padded = [text + [pad_id] * (longest - len(text)) for text in texts]
    first = writer.tokens.view(batch, -1, writer.length)[:, 0, :begin]
    return torch.cat([first, torch.tensor(padded, device=device)], 1)


def _sort_out(ranked, row, vocab, beams, ends, last):
    """The candidates of one row of the batch: up to `beams` that go on, and those that end.

    ranked: (score, place) of each, the best first, place = beam · vocab + token. An end counts
    only among the best `beams`: else a hopeless beam's end would crowd out what can still win.
    """
    going, ended = [], []
    for rank, (score, place) in enumerate(ranked):
        candidate = score, row + place // vocab, place % vocab
        if last or candidate[2] in ends:
            if rank < beams:
                ended.append(candidate)
        elif len(going) < beams:
            going.append(candidate)
    return going, ended
