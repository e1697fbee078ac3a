"""Answer every prompt of a file through an oq server, and pick up where it stopped.

    oq serve &
    pip install .                       # in a clone of oq
    printf 'Name a fruit.\\nName a colour.\\n' > prompts.txt
    python examples/batch.py prompts.txt answers.jsonl --model llama3.2

One prompt a line in, one JSON object a line out, in the same order. Kill it whenever you like and start it again:
each prompt has an idempotency key, made of the batch's name and its line, so the server knows the tasks that it
has already, and only what is missing is run. (It knows what it still stores: see queue.max_completed_tasks.) A prompt
that failed stays failed until `oq retry --tag prompts.txt`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import oq

GROUP = 500  # prompts submitted together; so many answers are held in memory at a time


def main() -> int:
    parser = argparse.ArgumentParser(description="Answer every line of a file.")
    parser.add_argument("prompts", type=Path, help="one prompt a line")
    parser.add_argument("answers", type=Path, help="written: one JSON object a line")
    parser.add_argument("--model", default="llama3.2")
    parser.add_argument("--name", help="the batch's name [default: the file's]; another name runs all anew")
    parser.add_argument("--server", help="the oq server [default: OQ_URL, else http://localhost:7125]")
    given = parser.parse_args()
    name = given.name or given.prompts.name

    try:
        prompts = [line for line in given.prompts.read_text(encoding="utf-8").splitlines() if line.strip()]
        return run(given.server, given.model, name, prompts, given.answers)
    except OSError as error:  # such as: there is no such file, the disk is full
        print(f"error: {error.filename or given.answers}: {error.strerror}", file=sys.stderr)
    except UnicodeDecodeError:
        print(f"error: {given.prompts} is not UTF-8 text", file=sys.stderr)
    except oq.errors.OqError as error:  # such as: no server answers, the queue is full
        print(f"\nerror: {error.message}", file=sys.stderr)
    return 1


def run(server: str | None, model: str, name: str, prompts: list[str], answers: Path) -> int:
    """Write the answers; return 1 if a prompt has none."""
    failed = 0
    with oq.Client(server) as client, answers.open("w", encoding="utf-8") as out:
        for number, (prompt, answer) in enumerate(answered(client, model, name, prompts), 1):
            failed += "error" in answer
            out.write(json.dumps({"prompt": prompt, **answer}, ensure_ascii=False) + "\n")
            print(f"\r{number} of {len(prompts)} done, {failed} failed", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return 1 if failed else 0


def answered(
    client: oq.Client, model: str, name: str, prompts: list[str]
) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield each prompt with ``{"answer": …}`` or ``{"error": …}``, in order."""
    numbered = enumerate(prompts)
    while group := list(islice(numbered, GROUP)):
        tasks = [task(model, name, number, prompt) for number, prompt in group]
        for (_, prompt), handle in zip(group, client.submit_many(tasks), strict=True):
            try:
                if isinstance(handle, oq.errors.OqError):
                    raise handle  # this one was refused; the others of the group were taken
                yield prompt, {"answer": handle.result()["response"]}
            except (oq.errors.InvalidTask, oq.errors.TaskFailed, oq.errors.TaskCancelled) as error:
                yield prompt, {"error": error.message}


def task(model: str, name: str, number: int, prompt: str) -> oq.TaskSpec:
    """Return the task of one line: low priority, so that people who wait go first."""
    digest = hashlib.sha256(f"{model}\n{prompt}".encode()).hexdigest()[:16]
    return oq.generate(
        model, prompt, priority=oq.LOW, tags=[name], idempotency_key=f"{name}:{number}:{digest}",
        options={"temperature": 0, "num_predict": 64},
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
