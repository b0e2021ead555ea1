"""Solutions of the exercises on today's decoder, and wrong answers of students."""

from llmbook.experiments import todays_decoder as lab


def qk_norm(q, k, q_gain, k_gain, eps=1e-6):
    def norm(x, gain):
        return gain * x / (x.square().mean(-1, keepdim=True) + eps).sqrt()

    return norm(q, q_gain), norm(k, k_gain)


def block_parameters(d, heads, kv_heads, d_ff):
    c = d // heads
    attention = 2 * d * d + 2 * d * kv_heads * c
    network = 3 * d * d_ff
    return attention + network + 2 * d + 2 * c


def rotary_alone():
    return lab.Recipe(rotary=True)


SOLUTIONS = {
    "qk_norm": qk_norm,
    "block_parameters": block_parameters,
    "acts": "yes",
    "saved": 51.539607552,
    "rotary_alone": rotary_alone,
}


# --- wrong answers


def norm_over_all_heads(q, k, q_gain, k_gain, eps=1e-6):
    def norm(x, gain):
        return gain * x / (x.square().mean((1, 3), keepdim=True) + eps).sqrt()

    return norm(q, q_gain), norm(k, k_gain)


def norm_that_takes_the_mean_out(q, k, q_gain, k_gain, eps=1e-6):
    def norm(x, gain):
        x = x - x.mean(-1, keepdim=True)
        return gain * x / (x.square().mean(-1, keepdim=True) + eps).sqrt()

    return norm(q, q_gain), norm(k, k_gain)


def norm_by_the_length(q, k, q_gain, k_gain, eps=1e-6):
    def norm(x, gain):
        return gain * x / (x.square().sum(-1, keepdim=True) + eps).sqrt()

    return norm(q, q_gain), norm(k, k_gain)


def norm_with_eps_outside(q, k, q_gain, k_gain, eps=1e-6):
    def norm(x, gain):
        return gain * x / (x.square().mean(-1, keepdim=True).sqrt() + eps)

    return norm(q, q_gain), norm(k, k_gain)


def norm_with_one_gain_for_both(q, k, q_gain, k_gain, eps=1e-6):
    return qk_norm(q, k, q_gain, q_gain, eps)


def norm_of_the_queries_alone(q, k, q_gain, k_gain, eps=1e-6):
    return qk_norm(q, k, q_gain, k_gain, eps)[0], k


def count_without_sharing(d, heads, kv_heads, d_ff):
    return 4 * d * d + 3 * d * d_ff + 2 * d + 2 * d // heads


def count_with_two_matrices_in_the_network(d, heads, kv_heads, d_ff):
    return block_parameters(d, heads, kv_heads, d_ff) - d * d_ff


def count_with_biases(d, heads, kv_heads, d_ff):
    return block_parameters(d, heads, kv_heads, d_ff) + 2 * d


def count_with_gains_as_wide_as_the_model(d, heads, kv_heads, d_ff):
    return block_parameters(d, heads, kv_heads, d_ff) - 2 * (d // heads) + 2 * d


def count_without_norms(d, heads, kv_heads, d_ff):
    c = d // heads
    return 2 * d * d + 2 * d * kv_heads * c + 3 * d * d_ff


def count_with_shared_queries(d, heads, kv_heads, d_ff):
    c = d // heads
    return d * d + 3 * d * kv_heads * c + 3 * d * d_ff + 2 * d + 2 * c


def recipe_of_the_way():
    return lab.recipe_at("rotary")


def recipe_of_gpt():
    return lab.recipe_at("GPT")


def recipe_of_today():
    return lab.recipe_at(lab.TODAY)


def recipe_without_rotary():
    return lab.recipe_without("rotary")


def recipe_as_a_dictionary():
    return {"rotary": True}


def recipe_with_rmsnorm():
    return lab.Recipe(rotary=True, rms=True)


WRONG = {
    "qk_norm": {
        "over all heads": norm_over_all_heads,
        "the mean taken out": norm_that_takes_the_mean_out,
        "length 1": norm_by_the_length,
        "eps outside": norm_with_eps_outside,
        "one gain for both": norm_with_one_gain_for_both,
        "queries alone": norm_of_the_queries_alone,
    },
    "block_parameters": {
        "no sharing": count_without_sharing,
        "two matrices": count_with_two_matrices_in_the_network,
        "biases": count_with_biases,
        "gains of the model's width": count_with_gains_as_wide_as_the_model,
        "no norms": count_without_norms,
        "queries shared too": count_with_shared_queries,
    },
    "acts": {
        "no": "no",
        "a number": 1.0,
        "a sentence": "the same for all keys",
        "a bool": True,
        "sometimes": "sometimes",
    },
    "saved": {
        "what is left": 0.25 * 32 * 2 * 4096 * 131_072 * 2 / 1e9,
        "all of it": 32 * 2 * 4096 * 131_072 * 2 / 1e9,
        "keys alone": 0.75 * 32 * 4096 * 131_072 * 2 / 1e9,
        "one layer": 0.75 * 2 * 4096 * 131_072 * 2 / 1e9,
        "four bytes a number": 0.75 * 32 * 2 * 4096 * 131_072 * 4 / 1e9,
        "bytes, not 10⁹": 0.75 * 32 * 2 * 4096 * 131_072 * 2,
    },
    "rotary_alone": {
        "the way up to it": recipe_of_the_way,
        "GPT's": recipe_of_gpt,
        "today's": recipe_of_today,
        "today's without it": recipe_without_rotary,
        "a dictionary": recipe_as_a_dictionary,
        "with RMSNorm": recipe_with_rmsnorm,
    },
}
