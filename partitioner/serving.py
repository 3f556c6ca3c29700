"""What serving a request costs beside link and model, as measured once for our own client and server over HTTP.

From benchmarks/request_overhead.py (results in benchmarks/results/request_overhead.json): client, HTTP and server on
one machine, over a real link, requests one at a time after pauses, without the model's own time and without the round
trip of a TCP message, which a measured link has in it. Framing is what crosses the wire beside the tensor: the heads of
request and answer and the protocol's JSON. Over gRPC it is a quarter of that, and the fixed time twice.
"""

from __future__ import annotations

from .plan import Serving

SERVING = Serving(
    fixed_s=0.730e-3,
    per_byte_s=1.027e-9,
    request_framing_bytes=336,
    answer_framing_bytes=259,
    source="benchmarks/results/request_overhead.json",
    session_s=0.467e-3,
)
