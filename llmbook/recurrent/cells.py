"""The recurrent cells: one step each, written as the formula is printed.

Letters: x_t input, h_t hidden state, c_t cell state, W and W' the weights applied to x_t and to
h_(t-1) (w_ih and w_hh in code), b and b' their biases, * the elementwise product, s() the logistic
sigmoid.
"""

import torch
import torch.nn.functional as F

from llmbook.checks import one_of

NONLINEARITIES = {"tanh": torch.tanh, "relu": torch.relu}


def rnn_cell(x, h, w_ih, w_hh, b_ih=None, b_hh=None, nonlinearity="tanh"):
    """One step of the plain recurrent network (Elman, 1990).

    h_t = tanh(W_ih x_t + b_ih + W_hh h_(t-1) + b_hh), or relu in place of tanh.

    x: (batch, inputs), h: (batch, hidden), w_ih: (hidden, inputs), w_hh: (hidden, hidden),
    b_ih and b_hh: (hidden). Returns h_t: (batch, hidden).
    """
    function = NONLINEARITIES[one_of("nonlinearity", nonlinearity, NONLINEARITIES)]
    return function(F.linear(x, w_ih, b_ih) + F.linear(h, w_hh, b_hh))


def lstm_cell(x, h, c, w_ih, w_hh, b_ih=None, b_hh=None, w_hr=None):
    """One step of the LSTM (Hochreiter and Schmidhuber, 1997; forget gate: Gers et al., 2000).

    i, f, o = s(W x_t + b + W' h_(t-1) + b')      input, forget, output gate, each its own W
    g       = tanh(W x_t + b + W' h_(t-1) + b')   the candidate
    c_t     = f * c_(t-1) + i * g
    h_t     = o * tanh(c_t), or W_hr (o * tanh(c_t)): a projection (Sak et al., 2014)

    The rows of w_ih: (4 hidden, inputs), w_hh: (4 hidden, hidden) and of the biases are stacked in
    the order i, f, g, o (torch's and cuDNN's; the paper of 1997 has no f).
    x: (batch, inputs), h and c: (batch, hidden). Returns h_t and c_t. With a projection, w_hr:
    (projected, hidden), h is (batch, projected) and w_hh (4 hidden, projected).
    """
    i, f, g, o = (F.linear(x, w_ih, b_ih) + F.linear(h, w_hh, b_hh)).chunk(4, dim=-1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    h = o.sigmoid() * c.tanh()
    return (h if w_hr is None else F.linear(h, w_hr)), c


def gru_cell(x, h, w_ih, w_hh, b_ih=None, b_hh=None, reset_after=True):
    """One step of the gated recurrent unit (Cho et al., 2014).

    r, z = s(W x_t + b + W' h_(t-1) + b')   reset and update gate, each with its own W
    n    = tanh(W_n x_t + b_n + r * (W'_n h_(t-1) + b'_n))   reset_after=True: torch, cuDNN
    n    = tanh(W_n x_t + b_n + W'_n (r * h_(t-1)) + b'_n)   reset_after=False: the paper
    h_t  = (1 - z) * n + z * h_(t-1)   so z = 1 keeps the state (some papers swap z and 1 - z)

    The rows of w_ih: (3 hidden, inputs), w_hh: (3 hidden, hidden) and of the biases are stacked in
    the order r, z, n. x: (batch, inputs), h: (batch, hidden). Returns h_t: (batch, hidden).
    """
    x_r, x_z, x_n = F.linear(x, w_ih, b_ih).chunk(3, dim=-1)
    h_r, h_z, h_n = F.linear(h, w_hh, b_hh).chunk(3, dim=-1)
    r = (x_r + h_r).sigmoid()
    z = (x_z + h_z).sigmoid()
    if not reset_after:
        hidden = h.shape[-1]
        h_n = F.linear(r * h, w_hh[-hidden:], None if b_hh is None else b_hh[-hidden:])
        return (1 - z) * (x_n + h_n).tanh() + z * h
    return (1 - z) * (x_n + r * h_n).tanh() + z * h
