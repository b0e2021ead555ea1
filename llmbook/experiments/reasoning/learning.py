"""The training engine as all runs here use it: a constant rate, no decay, no checkpoints."""

from llmbook.training import TrainConfig, train


def constant(steps, rows, lr):
    """Settings of a short run whose steps see so many rows."""
    return TrainConfig(
        steps=steps,
        batch_size=rows,
        lr=lr,
        warmup=0,
        schedule="constant",
        weight_decay=0.0,
        evaluate_every=0,
        checkpoint_every=0,
    )


def by_reward(grpo, steps, rows, lr):
    """Train a GRPO's model, in place: the history, with what its `log` was told."""
    history = train(
        grpo.model,
        grpo.batch_at,
        constant(steps, rows, lr),
        loss=grpo.loss,
        count=grpo.count,
        log=grpo.log,
        together=grpo.config.passes,
    )
    grpo.model.eval()
    return history


def curves(history, names):
    """What was noted at each step, by name."""
    return {name: [round(value, 4) for _, value in history.noted[name]] for name in names}
