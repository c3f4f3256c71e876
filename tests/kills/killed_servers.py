"""`ellm serve --sessions`, killed again and again: what its files hold is found by the next one, with the same bits."""

import json
import random
import threading
import time
from http.client import HTTPException

from asked_alone import ask_alone
from known_answers import Heard
from server_process import ServerProcess
from tiny import write_checkpoint

from ellm import LLM, InputError, SamplingParams
from ellm.kernels.contract import SPLIT
from ellm.serving import session_files
from ellm.serving.identity import identity

CONTEXT, CLIENTS = 2048, 8
LONGEST = 3.0  # seconds from readiness to a kill
SOUGHT = 3  # files whose tokens are asked for after a restart


def kill_servers(folder, count, seed, known=24):
    """Yields lines about what happened, and faults, which begin with FAULT. `known`: different requests."""
    kills = Kills(folder, seed, known)
    try:
        for number in range(count):
            yield from kills.once(number)
        yield f"sessions: {count} kills, {kills.answered} answers before them, {kills.files} files were whole,"
        yield f"sessions: {kills.sought} of them sought by the next, with {kills.cached} tokens found"
    finally:
        kills.close()


class Kills:
    """One model, one folder of sessions."""

    def __init__(self, folder, seed, known):
        model = write_checkpoint(folder / "served", "Qwen3ForCausalLM", max_position_embeddings=CONTEXT)
        self._model, self._folder, self._draw = model, folder / "sessions", random.Random(seed)
        self._alone = LLM(model, context=CONTEXT, cache_bytes=0, pin="none", threads=1)
        self._about = {"format": session_files.FORMAT, **identity(self._alone.runtime)}
        self._known = ask_alone(self._alone, ServerProcess.name, count=known, seed=seed, longest=CONTEXT)
        self._left = []  # what the files held after the last kill
        self.answered = self.files = self.sought = self.cached = 0

    def close(self):
        self._alone.close()

    def once(self, number):
        """Serve, seek what was left, answer, and be killed."""
        wrong = []
        options = ["--context", CONTEXT, "--pin", "none", "--sessions", self._folder]
        with ServerProcess(self._model, *options) as server:
            if said := [*server.said][2:]:
                yield f"FAULT: sessions: after {number} kills the server says {said[0]}"
            for entry in self._draw.sample(self._left, min(SOUGHT, len(self._left))):
                yield from self._seek(server, entry)
            clients = [threading.Thread(target=self._ask, args=(server, index, wrong)) for index in range(CLIENTS)]
            for client in clients:
                client.start()
            time.sleep(self._draw.uniform(0, LONGEST))
            server.kill()
            for client in clients:
                client.join()
        yield from (f"FAULT: sessions: request {one} got another answer than alone" for one in wrong)
        self._left, damaged = self._entries()
        yield from (f"FAULT: sessions: after {number + 1} kills: {fault}" for fault in damaged)
        self.files += len(self._left)

    def _entries(self):
        """What the files hold, and what is wrong with the others."""
        found, damaged = [], []
        for path in sorted(self._folder.glob(f"*{session_files.SUFFIX}")):
            try:
                entry = session_files.read(path, self._about)
                found.append(entry)
                if entry is None:
                    damaged.append(f"{path.name} is of something else")
            except InputError as error:
                damaged.append(str(error))
        return [entry for entry in found if entry is not None], damaged

    def _seek(self, server, entry):
        """Ask for what follows the tokens of a file: they must be found, and the answer be the one of a cold start."""
        prompt = [*entry.tokens.tolist()[: CONTEXT - 8], 5]
        params = SamplingParams(temperature=0, max_tokens=4, ignore_eos=True)
        (output,) = self._alone.generate([prompt], params)
        body = {"model": server.name, "prompt": prompt, "max_tokens": 4, "temperature": 0, "logprobs": 0}
        status, said = server.ask("/v1/completions", body | {"ignore_eos": True})
        reply = json.loads(said)
        if status != 200 or reply["choices"][0]["logprobs"]["token_logprobs"] != output.logprobs:
            yield f"FAULT: sessions: {len(prompt)} tokens of {entry.path.name} get another answer than alone"
            return
        cached = reply["usage"]["prompt_tokens_details"]["cached_tokens"]
        if cached < (len(prompt) - 1) // SPLIT * SPLIT:
            yield f"FAULT: sessions: {cached} of {len(prompt)} tokens of {entry.path.name} were found"
        self.sought += 1
        self.cached += cached

    def _ask(self, server, seed, wrong):
        """One request after the other, until the server is gone."""
        draw = random.Random(f"{seed}/{self.files}")
        while True:
            at = draw.randrange(len(self._known))
            known = self._known[at]
            try:
                status, said = server.ask(known.path, known.body)
            except (OSError, HTTPException):
                return
            heard = Heard(known)
            heard.add(json.loads(said))
            if status != 200 or not heard.right:
                wrong.append(at)
            self.answered += 1
