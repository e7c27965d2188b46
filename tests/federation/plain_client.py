"""A client that was written from docs/protocol.md alone: it imports nothing of Headway and nothing of PyTorch.

It learns a softmax regression with plain gradient descent on all of its examples, on plain HTTP.
"""

import hashlib
import http.client
import json
import struct

import numpy as np

REQUESTS, REPLIES = ["train", "evaluate", "measure", "exchange", "settle"], ["scores", "settled", "declined", "sum"]
KINDS = ["update", "message", "reply", *REQUESTS, *REPLIES]
DTYPES = [np.float32, np.float64, np.float16, None, np.int8, np.uint8, np.int16, np.int32, np.int64]
HEADER = struct.Struct("<4sBBHIIIQ")


def decode(data):
    """The kind, the three numbers and the named arrays of a frame."""
    assert hashlib.blake2b(data[:-16], digest_size=16).digest() == data[-16:]
    magic, version, kind, count, round_, attempt, ask, length = HEADER.unpack_from(data)
    assert (magic, version, length) == (b"HWAY", 1, len(data) - HEADER.size - 16)
    place, heads = HEADER.size, []
    for _ in range(count):
        size, dtype, dims = struct.unpack_from("<BBB", data, place)
        shape = struct.unpack_from(f"<{dims}Q", data, place + 3)
        place += 3 + 8 * dims
        heads.append((data[place : place + size].decode(), DTYPES[dtype], shape))
        place += size
    arrays = {}
    for name, dtype, shape in heads:
        numbers = int(np.prod(shape))
        arrays[name] = np.frombuffer(data, dtype, numbers, place).reshape(shape)
        place += numbers * np.dtype(dtype).itemsize
    return KINDS[kind], (round_, attempt, ask), arrays


def encode(kind, binding, arrays):
    heads = b""
    for name, array in arrays.items():
        heads += struct.pack("<BBB", len(name), DTYPES.index(array.dtype.type), array.ndim)
        heads += struct.pack(f"<{array.ndim}Q", *array.shape) + name.encode()
    payload = heads + b"".join(array.tobytes() for array in arrays.values())
    body = HEADER.pack(b"HWAY", 1, KINDS.index(kind), len(arrays), *binding, len(payload)) + payload
    return body + hashlib.blake2b(body, digest_size=16).digest()


class PlainClient:
    """inputs `[n, d]` and labels `[n]` of the classes; lr, steps: of the descent."""

    def __init__(self, host, port, name, inputs, labels, classes, lr, steps):
        self.connection, self.name = http.client.HTTPConnection(host, port, timeout=60), name
        self.inputs, self.labels, self.classes, self.lr, self.steps = inputs, labels, classes, lr, steps

    def call(self, method, path, body=None, **headers):
        raw = json.dumps(body).encode() if isinstance(body, dict) else body
        self.connection.request(method, path, raw, {"Headway-Node": self.name, **headers})
        answer = self.connection.getresponse()
        return answer.status, answer.headers, answer.read()

    def run(self):
        """Takes part until the job has ended; its state."""
        job = json.loads(self.call("GET", "/v1/job")[2])
        count, width = self.inputs.shape
        data = {"train": count, "test": count, "input_shape": [width]}
        join = {"job": job["job"], "versions": job["versions"], "task": job["task"], "data": data}
        status, _, raw = self.call("POST", "/v1/join", join)
        assert status == 200, raw
        settled = []
        while True:
            ask = {"job": job["job"], "wait_s": 20.0, "settled": settled}
            status, _, raw = self.call("POST", "/v1/work", ask)
            work = json.loads(raw)
            if status != 200 or work["state"] not in ("waiting", "running"):
                return work.get("state", work)
            settled = [[verdict["round"], verdict["attempt"]] for verdict in work["verdicts"]]
            if work["assignment"] is not None:
                self.answer(work["assignment"])

    def answer(self, assignment):
        status, _, frame = self.call("GET", f"/v1/messages/{assignment['message']}")
        assert (status, hashlib.sha256(frame).hexdigest()) == (200, assignment["message"])
        kind, binding, arrays = decode(frame)
        reply = self.train if kind == "train" else self.score
        data = encode(*reply(binding, arrays["m/params"]))
        path = f"/v1/replies/{assignment['assignment']}"
        there = int(self.call("HEAD", path)[1]["Headway-Offset"])
        self.call("PUT", path, data[there:], **{"Headway-Offset": str(there)})
        end = {"size": len(data), "digest": hashlib.sha256(data).hexdigest(), "message": assignment["message"]}
        status, _, raw = self.call("POST", f"{path}/complete", end)
        assert status == 200, raw
        assert json.loads(raw)["verdict"] in ("accepted", "answered"), raw

    def probabilities(self, params):
        """Softmax of W x + b; the parameters are W `[classes, d]`, then b."""
        width = self.inputs.shape[1]
        weight, bias = params[: self.classes * width].reshape(self.classes, width), params[self.classes * width :]
        logits = self.inputs @ weight.T + bias
        powers = np.exp(logits - logits.max(1, keepdims=True))
        return powers / powers.sum(1, keepdims=True)

    def loss(self, params):
        return float(-np.log(self.probabilities(params)[np.arange(len(self.labels)), self.labels]).mean())

    def train(self, binding, start):
        params, losses = start.copy(), []
        for _ in range(self.steps):
            losses.append(self.loss(params))
            error = (self.probabilities(params) - np.eye(self.classes)[self.labels]) / len(self.labels)
            params = params - self.lr * np.concatenate([(error.T @ self.inputs).ravel(), error.sum(0)])
        figures = {"f/examples": len(self.labels), "f/steps": self.steps, "f/train_loss": np.mean(losses)}
        arrays = {"v/delta": params - start, "weight": np.float64(len(self.labels))}
        return "update", binding, {k: np.asarray(v, np.float64) for k, v in (arrays | figures).items()}

    def score(self, binding, params):
        right = float((self.probabilities(params).argmax(1) == self.labels).mean())
        scores = {"f/loss": np.float64(self.loss(params)), "f/accuracy": np.float64(right)}
        return "scores", binding, {"o/examples": np.asarray(len(self.labels), np.int64), **scores}
