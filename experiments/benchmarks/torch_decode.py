"""transformers' side of decode.py: greedy text with a cache, from the same weights and prompts.

Run by that benchmark under an interpreter with torch and transformers; it answers each line of
standard input, a question in JSON, with a line of JSON:
    {"folder"}          loads the model; answers with its parameters and the versions
    {"prompts", "new"}  keeps them; answers with the tokens after each prompt
    {"calls": n}        seconds of such a call, the mean of n
"""

import json
import os
import sys
import time
from typing import Any

import torch  # pyright: ignore[reportMissingImports]
import transformers  # pyright: ignore[reportMissingImports]


class Writing:
    """A model and the prompts that it goes on from."""

    def __init__(self, folder: str):
        found = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
        self.model, self.new = found.eval(), 0
        self.prompts: Any = None

    def tokens(self) -> list[list[int]]:
        written = self.model.generate(
            self.prompts,
            attention_mask=torch.ones_like(self.prompts),
            max_new_tokens=self.new,
            min_new_tokens=self.new,
            do_sample=False,
            use_cache=True,
            pad_token_id=0,
        )
        return written[:, self.prompts.shape[1] :].tolist()

    def seconds(self, calls: int) -> float:
        begun = time.perf_counter()
        for _ in range(calls):
            self.tokens()
        return (time.perf_counter() - begun) / calls


@torch.inference_mode()
def main() -> None:
    """Answer until standard input ends."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    writing: Any = None
    for line in sys.stdin:
        question = json.loads(line)
        if "folder" in question:
            writing = Writing(question["folder"])
            answer: Any = {
                "parameters": writing.model.num_parameters(),
                "torch": torch.__version__,
                "transformers": transformers.__version__,
            }
        elif "prompts" in question:
            writing.prompts, writing.new = torch.tensor(question["prompts"]), question["new"]
            answer = writing.tokens()
        else:
            answer = writing.seconds(question["calls"])
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
