"""Flask application of the ingress's tests, on the sandbox's loopback, port 8005."""

import time
from collections.abc import Iterator

from flask import Flask, Response, jsonify, request

app = Flask(__name__)


@app.route("/form/", methods=["GET", "POST"])
def form() -> Response:
    """Answer with the received request; the URL without its slash is redirected here."""
    return jsonify(form=request.form, url=request.url, user=request.authorization.username if request.authorization else None)


@app.route("/ticks")
def ticks() -> Response:
    """Four lines, a fifth of a second apart."""

    def lines() -> Iterator[str]:
        for number in range(4):
            yield f"{number}\n"
            time.sleep(0.2)

    return Response(lines(), mimetype="text/plain")


app.run("127.0.0.1", 8005, threaded=True)
