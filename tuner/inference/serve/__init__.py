"""`tuner serve`: an OpenAI-compatible server over one base and adapters that take turns on it.

Why not transformers' own `serve` (transformers.cli.serving, read at 5.23): its model manager loads
a whole model for each name with `from_pretrained` and knows no adapters, so two adapters would be
two copies of the base. A seed there is set for the process when the request is parsed, not when its
tokens are drawn; control tokens in a user's text become control tokens; and there is neither a key
nor a limit of the queue. So the protocol is FastAPI's and uvicorn's here, and what answers is
`tuner.inference.engine`, as for `tuner chat`.

Rows of one adapter are not decoded as one batch: the sums of a larger matrix product come in
another order, and an answer would depend on who else asks.

    protocol.py  what is asked, what is refused    replies.py  answers in OpenAI's shape
    voices.py    model names and their prompts     worker.py   the one thread that generates
    app.py       the endpoints                     desk.py     admission, queue, draining
    server.py    socket, signals, the end          guard.py    key, host, size; a line for the log
"""
