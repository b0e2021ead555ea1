"""What learning from one's own answers shares: fresh rollouts, kept for some updates."""

from llmbook.alignment.collapse import Collapsed
from llmbook.alignment.rollouts import NotFinite, roll_out, scores
from llmbook.seeds import generator


class OnPolicy:
    """The base of PPO and GRPO: `batch_at(step)` for the training engine.

    A class has `config` (passes, max_new_tokens, temperature, seed), `writer` (the model that
    answers), `answers` (how many a prompt), `prompts_at` and `reward`, and says in
    `_batch(step, rollouts, rewards)` what its loss reads.
    """

    rollouts = _kept = None  # of the last step that sampled

    def batch_at(self, step):
        """The tensors of a step: fresh rollouts where step % passes == 0, else the last ones."""
        passes = self.config.passes
        if step % passes == 0:
            try:
                self.rollouts = self.sample(step)
            except NotFinite as error:
                raise Collapsed(str(error), step) from error
            rewards = scores(self.reward, self.rollouts, step)
            self._kept = self._batch(step, self.rollouts, rewards)
        elif self._kept is None:
            raise ValueError(f"together must be passes={passes}: got step {step} first")
        return self._kept

    def sample(self, step):
        """The rollouts of a step; a policy that writes with tools at hand has its own."""
        return roll_out(
            self.writer,
            self.prompts_at(step),
            self.answers,
            max_new_tokens=self.config.max_new_tokens,
            temperature=self.config.temperature,
            seed=generator(self.config.seed, "rollouts", step),
        )
