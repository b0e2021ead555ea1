"""Recurrent layers: a cell run along the sequence, in one direction or both, layer upon layer.

Two backends do the same sum. `reference` calls the cell once a step: correct in float64, and slow.
`fast` hands the whole sequence to torch (`torch.lstm` and its kin: cuDNN on a GPU, on a CPU oneDNN
or torch's own C++ loop). `backend="auto"` takes `fast` wherever it computes the layer asked for.

Shape legend: b batch, t time steps, f features. A batch inside is (b, t, f); flat or packed it is
(all steps, f), step by step; states are (layers · directions, b, hidden).
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from llmbook import checks
from llmbook.recurrent.cells import NONLINEARITIES, gru_cell, lstm_cell, rnn_cell

BACKENDS = ("auto", "reference", "fast")


def _run_one_way(cell, steps, state, reverse):
    """Run `cell(x_t, *state) -> state` along `steps`; returns the h_t and the last state.

    steps[t]: (sequences with a step t, features). The longest sequences come first, so these
    are always the first rows of the state. Read forwards, a sequence that ends drops out and
    its rows keep the last state; read backwards, it joins late, with its initial state untouched.
    """
    outputs = [None] * len(steps)
    for t in range(len(steps))[:: -1 if reverse else 1]:
        running = len(steps[t])
        new = cell(steps[t], *(s[:running] for s in state))
        outputs[t] = new[0]
        if running < len(state[0]):
            new = tuple(torch.cat([a, s[running:]]) for a, s in zip(new, state, strict=True))
        state = new
    return outputs, state


class _Recurrent(nn.RNNBase):
    """What RNN, LSTM and GRU share: parameters, checks, the choice of a backend, packing.

    `nn.RNNBase` contributes the parameters (names, shapes, initial values: with the same seed,
    torch.nn's weights) and keeps them in the one block of memory that cuDNN wants.
    """

    n_states = 1  # tensors in the state: h, or h and c

    def __init__(
        self,
        mode,
        input_size,
        hidden_size,
        num_layers,
        bias,
        dropout,
        bidirectional,
        backend,
        batch_first=True,
        proj_size=0,
        device=None,
        dtype=None,
    ):
        super().__init__(
            mode,
            checks.whole("input_size", input_size, least=1),
            checks.whole("hidden_size", hidden_size, least=1),
            checks.whole("num_layers", num_layers, least=1),
            bias=checks.flag("bias", bias),
            batch_first=checks.flag("batch_first", batch_first),
            dropout=checks.share("dropout", dropout),
            bidirectional=checks.flag("bidirectional", bidirectional),
            proj_size=checks.whole("proj_size", proj_size, least=0, most=hidden_size - 1),
            device=device,
            dtype=dtype,
        )
        self.backend = checks.one_of("backend", backend, BACKENDS)

    def forward(self, input, hx=None):
        """Run the layer over a batch of sequences.

        input: (batch, steps, input_size), one sequence (steps, input_size), or a PackedSequence;
            with batch_first=False (steps, batch, input_size).
        hx: the initial h_0, for the LSTM (h_0, c_0); zeros when None. Each of them
            (num_layers * directions, batch, hidden_size), without batch for one sequence.
        Returns output, h_n (for the LSTM: output, (h_n, c_n)). output: (batch, steps,
        directions * hidden_size), the top layer's h_t, packed, unbatched or steps first as the
        input was; h_n: shaped as hx, layer by layer, in each the forward direction before the
        backward. Where an LSTM has proj_size, h_0, h_n and output have it for hidden_size.

        Raises ValueError for a wrong shape, device or backend, TypeError for a wrong dtype.
        """
        packed = input if isinstance(input, PackedSequence) else None
        data = input if packed is None else packed.data
        self._check_input(data, packed)
        unbatched = packed is None and data.dim() == 2
        steps_first = packed is None and not unbatched and not self.batch_first
        if unbatched:
            data = data[None]
        elif steps_first:
            data = data.transpose(0, 1)
        batch = len(data) if packed is None else int(packed.batch_sizes[0])
        state = self._initial_state(hx, data, batch, unbatched)
        order, back = (None, None) if packed is None else packed[2:]
        if order is not None:
            state = tuple(s.index_select(1, order) for s in state)

        run = self._run_fast if self.backend_for(input) == "fast" else self._run_reference
        output, *state = run(data, None if packed is None else packed.batch_sizes, state)

        if back is not None:
            state = tuple(s.index_select(1, back) for s in state)
        if unbatched:
            output, state = output[0], tuple(s[:, 0] for s in state)
        if steps_first:
            output = output.transpose(0, 1)
        if packed is not None:
            output = PackedSequence(output, *packed[1:])
        return output, (state[0] if self.n_states == 1 else tuple(state))

    # The two backends. data: (batch, steps, features), or packed: (all steps, features).

    def _run_reference(self, data, batch_sizes, state):
        """The cell above, step by step, direction by direction, layer by layer."""
        # A padded batch is a packed one in which no sequence ends early.
        batch, steps = data.shape[:2]
        sizes = [batch] * steps if batch_sizes is None else batch_sizes.tolist()
        flat = rearrange(data, "b t f -> (t b) f") if batch_sizes is None else data

        last = []
        directions = 2 if self.bidirectional else 1
        for layer in range(self.num_layers):
            inputs, both_ways = list(flat.split(sizes)), []
            for direction in range(directions):
                k = layer * directions + direction
                weights = self.all_weights[k]
                outputs, end = _run_one_way(
                    lambda x, *s, w=weights: self._cell(x, s, w),
                    inputs,
                    tuple(s[k] for s in state),
                    reverse=direction == 1,
                )
                both_ways.append(torch.cat(outputs))
                last.append(end)
            flat = torch.cat(both_ways, dim=-1)
            if layer < self.num_layers - 1:  # dropout between layers, not after the last
                flat = F.dropout(flat, self.dropout, self.training)

        output = rearrange(flat, "(t b) f -> b t f", t=steps) if batch_sizes is None else flat
        return output, *(torch.stack(s) for s in zip(*last, strict=True))

    def _run_fast(self, data, batch_sizes, state):
        """torch's own function for the whole sequence: cuDNN, oneDNN or a C++ loop."""
        name = {"RNN_TANH": "rnn_tanh", "RNN_RELU": "rnn_relu"}.get(self.mode, self.mode.lower())
        function = getattr(torch, name)
        weights = [w for group in self.all_weights for w in group]
        how = (self.bias, self.num_layers, self.dropout, self.training, self.bidirectional)
        hx = state if self.n_states > 1 else state[0]
        if batch_sizes is None:
            return function(data, hx, weights, *how, True)
        return function(data, batch_sizes, hx, weights, *how)

    def _cell(self, x, state, weights):
        raise TypeError("use RNN, LSTM or GRU; their base class has no cell")

    # Which backend runs, and why.

    def _why_not_fast(self):
        return None

    def _choose(self, input=None):
        if checks.one_of("backend", self.backend, BACKENDS) == "reference":
            return "reference", "asked for by name"
        obstacle = self._why_not_fast()
        if obstacle is None:
            asked = "asked for by name" if self.backend == "fast" else "the first choice of auto"
            return "fast", f"{asked}; the whole sequence runs in {self._library(input)}"
        if self.backend == "fast":
            raise ValueError(f"backend='fast' cannot run this layer: {obstacle}")
        return "reference", f"fast cannot run this layer: {obstacle}"

    def _library(self, input):
        weight, sizes = self.weight_ih_l0, getattr(input, "batch_sizes", None)
        if weight.is_cuda:
            return "cuDNN" if torch.backends.cudnn.is_acceptable(weight) else "torch's CUDA loop"
        one_dnn = torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled
        uneven = sizes is not None and sizes[0] != sizes[-1]
        plain = self.mode == "LSTM" and not self.proj_size
        if one_dnn and plain and weight.dtype == torch.float32 and not uneven:
            return "oneDNN"
        return "torch's C++ loop"

    def backend_for(self, input=None):
        """The backend that `layer(input)` would run: "reference" or "fast"."""
        return self._choose(input)[0]

    def explain_backend(self, input=None):
        """One line: the backend that `layer(input)` would run, and why."""
        return "{}: {}".format(*self._choose(input))

    # What the input must be.

    def _check_input(self, data, packed):
        name, weight = type(self).__name__, self.weight_ih_l0
        if not isinstance(data, Tensor):
            raise TypeError(f"{name} input must be a tensor or PackedSequence: got {type(data)}")
        shape = tuple(data.shape)
        if packed is None and data.dim() not in (2, 3):
            axes = "batch, steps" if self.batch_first else "steps, batch"
            raise ValueError(
                f"{name} input must be ({axes}, features) or (steps, features): got {shape}"
            )
        if packed is not None and data.dim() != 2:
            raise ValueError(f"{name} packed data must be (all steps, features): got {shape}")
        if not data.is_floating_point():
            raise TypeError(
                f"{name} input must be floating point: got {data.dtype}; embed token ids first"
            )
        if shape[-1] != self.input_size:
            raise ValueError(
                f"{name} input must have input_size={self.input_size} features in its last axis: "
                f"got {shape[-1]} in shape {shape}"
            )
        if shape[0 if data.dim() == 3 and not self.batch_first else -2] == 0:
            raise ValueError(f"{name} input must have at least one step: got shape {shape}")
        self._check_like(f"{name} input", data, weight)

    def _initial_state(self, hx, data, batch, unbatched):
        stacked = self.num_layers * (2 if self.bidirectional else 1)
        widths = (self.proj_size or self.hidden_size, self.hidden_size)[: self.n_states]
        if hx is None:
            return tuple(data.new_zeros(stacked, batch, width) for width in widths)
        state = (hx,) if self.n_states == 1 else hx
        names = ("h_0", "c_0")[: self.n_states]
        if not isinstance(state, tuple | list) or len(state) != self.n_states:
            raise TypeError(f"{type(self).__name__} hx must be a pair (h_0, c_0): got {type(hx)}")
        for name, s, width in zip(names, state, widths, strict=True):
            want = (stacked, width) if unbatched else (stacked, batch, width)
            if not isinstance(s, Tensor):
                raise TypeError(f"{name} must be a tensor: got {type(s)}")
            if tuple(s.shape) != want:
                axes = "(layers * directions, " + ("hidden)" if unbatched else "batch, hidden)")
                raise ValueError(f"{name} must be {axes} = {want}: got {tuple(s.shape)}")
            self._check_like(name, s, data)
        return tuple(s[:, None] for s in state) if unbatched else tuple(state)

    @staticmethod
    def _check_like(name, tensor, like):
        if tensor.device != like.device:
            raise ValueError(
                f"{name} must be on the layer's device: "
                f"got {tensor.device}, expected {like.device}"
            )
        if tensor.dtype != like.dtype and not _autocast(like.device):
            raise TypeError(
                f"{name} must have the layer's dtype: got {tensor.dtype}, expected {like.dtype}"
            )

    def extra_repr(self):
        return f"{super().extra_repr()}, backend={self.backend!r}"


class RNN(_Recurrent):
    """Plain recurrent layers: h_t = tanh(W_ih x_t + b_ih + W_hh h_(t-1) + b_hh).

    Equals `torch.nn.RNN`, with batch_first=True unless told otherwise; a state_dict moves both
    ways. nonlinearity is "tanh" or "relu"; dropout acts between layers.
    `output, h_n = layer(input, h_0)`, shapes as `forward` says.
    Raises ValueError or TypeError for a size, probability or name out of range.
    """

    def __init__(
        self,
        input_size,
        hidden_size,
        num_layers=1,
        nonlinearity="tanh",
        bias=True,
        dropout=0.0,
        bidirectional=False,
        backend="auto",
        *,
        batch_first=True,
        device=None,
        dtype=None,
    ):
        checks.one_of("nonlinearity", nonlinearity, NONLINEARITIES)
        super().__init__(
            "RNN_" + nonlinearity.upper(),
            input_size,
            hidden_size,
            num_layers,
            bias,
            dropout,
            bidirectional,
            backend,
            batch_first=batch_first,
            device=device,
            dtype=dtype,
        )
        self.nonlinearity = nonlinearity

    def _cell(self, x, state, weights):
        return (rnn_cell(x, *state, *weights, nonlinearity=self.nonlinearity),)


class LSTM(_Recurrent):
    """Long short-term memory layers: c_t = f * c_(t-1) + i * g, h_t = o * tanh(c_t).

    Equals `torch.nn.LSTM`, with batch_first=True unless told otherwise; a state_dict moves both
    ways. Gates are stacked in the order i, f, g, o; see `lstm_cell` for the whole formula. dropout
    acts between layers. proj_size: h_t is projected to so many numbers, fewer than hidden_size.
    `output, (h_n, c_n) = layer(input, (h_0, c_0))`, shapes as `forward` says.
    Raises ValueError or TypeError for a size, probability or name out of range.
    """

    n_states = 2

    def __init__(
        self,
        input_size,
        hidden_size,
        num_layers=1,
        bias=True,
        dropout=0.0,
        bidirectional=False,
        backend="auto",
        *,
        batch_first=True,
        proj_size=0,
        device=None,
        dtype=None,
    ):
        super().__init__(
            "LSTM",
            input_size,
            hidden_size,
            num_layers,
            bias,
            dropout,
            bidirectional,
            backend,
            batch_first=batch_first,
            proj_size=proj_size,
            device=device,
            dtype=dtype,
        )

    def _cell(self, x, state, weights):
        if not self.proj_size:
            return lstm_cell(x, *state, *weights)
        *weights, w_hr = weights
        return lstm_cell(x, *state, *weights, w_hr=w_hr)

    def _why_not_fast(self):
        device = self.weight_ih_l0.device
        if device.type == "cpu" and _autocast(device):
            return "under CPU autocast oneDNN's LSTM fails on chips without bfloat16 units"
        return None


class GRU(_Recurrent):
    """Gated recurrent unit layers: h_t = (1 - z) * n + z * h_(t-1).

    reset_after=True applies the reset gate after the product W'_n h_(t-1): torch's and cuDNN's
    form, equal to `torch.nn.GRU`, with batch_first=True unless told otherwise. reset_after=False
    applies it before, as the paper of 2014 does; only the reference computes that, with the same
    parameters, so a state_dict of one form loads into the other and means something else. See
    `gru_cell` for both formulas.
    Gates are stacked in the order r, z, n; dropout acts between layers.
    `output, h_n = layer(input, h_0)`, shapes as `forward` says.
    Raises ValueError or TypeError for a size, probability or name out of range, and ValueError for
    reset_after=False with backend="fast".
    """

    def __init__(
        self,
        input_size,
        hidden_size,
        num_layers=1,
        bias=True,
        dropout=0.0,
        bidirectional=False,
        backend="auto",
        reset_after=True,
        *,
        batch_first=True,
        device=None,
        dtype=None,
    ):
        super().__init__(
            "GRU",
            input_size,
            hidden_size,
            num_layers,
            bias,
            dropout,
            bidirectional,
            backend,
            batch_first=batch_first,
            device=device,
            dtype=dtype,
        )
        self.reset_after = checks.flag("reset_after", reset_after)
        self._choose()  # a backend asked for by name must be able to run

    def _cell(self, x, state, weights):
        return (gru_cell(x, *state, *weights, reset_after=self.reset_after),)

    def _why_not_fast(self):
        if not self.reset_after:
            return "torch has no GRU that resets before the product (reset_after=False)"
        return None

    def extra_repr(self):
        return f"{super().extra_repr()}, reset_after={self.reset_after}"


def _autocast(device):
    kind = device.type
    return torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
