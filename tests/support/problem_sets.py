"""A row of every bundled data set."""

import base64
import json
import pickle
import zlib
from pathlib import Path
from typing import Any

# A row with the columns that the data set of each name has on the hub, and a right answer to it.
ROWS: dict[str, tuple[dict[str, Any], str]] = {
    "gsm8k": ({"question": "2 and 3?", "answer": "2 + 3 = 5\n#### 5"}, r"\boxed{5}"),
    "math500": ({"problem": "1/2?", "answer": r"\frac{1}{2}", "level": 1}, r"so \boxed{0.5}"),
    "amc": ({"problem": "142?", "answer": 142.0, "url": ""}, r"\boxed{142}"),
    "aime24": ({"id": 60, "problem": "204?", "solution": "", "answer": "204", "year": "2024"}, r"\boxed{204}"),
    "aime25": ({"id": "0", "problem": "70?", "answer": "70"}, r"\boxed{70}"),
    "olympiadbench": ({"question": "Which?", "final_answer": ["$1,2$"], "solution": [""]}, r"\boxed{1,2}"),
    "minerva": ({"question": "How far?", "answer": "4.5e33"}, r"\boxed{4.5e33}"),
    "humaneval": (
        {
            "task_id": "HumanEval/0",
            "prompt": 'def inc(x):\n    """Add one."""\n',
            "entry_point": "inc",
            "test": "def check(candidate):\n    assert candidate(1) == 2\n",
        },
        "    return x + 1\n",
    ),
    "mbpp": (
        {
            "task_id": 11,
            "text": "Write a function inc that adds one.",
            "test_list": ["assert inc(1) == 2"],
            "test_setup_code": "",
            "challenge_test_list": [],
        },
        "def inc(x):\n    return x + 1\n",
    ),
    "livecodebench": (
        {
            "question_content": "Double the number.",
            "starter_code": "",
            "contest_date": "2024-09-01T00:00:00",
            "public_test_cases": json.dumps([{"input": "1", "output": "2", "testtype": "stdin"}]),
            "private_test_cases": base64.b64encode(
                zlib.compress(pickle.dumps(json.dumps([{"input": "4", "output": "8", "testtype": "stdin"}])))
            ).decode(),
            "metadata": "{}",
        },
        "```python\nprint(2 * int(input()))\n```",
    ),
    "numinamath": ({"source": "olympiads", "problem": "7?", "solution": r"Thus \boxed{7}.", "messages": []}, "#### 7"),
    "deepscaler": ({"problem": "8?", "answer": "8", "solution": ""}, r"\boxed{8}"),
    "math": ({"problem": "9?", "answer": "9"}, r"\boxed{9}"),
    "skywork_or1": (
        {
            "prompt": [{"role": "user", "content": "10?"}],
            "reward_model": {"ground_truth": '["\\\\frac{1}{2}"]', "style": "rule"},
            "extra_info": {"index": 0, "model_difficulty": {"DeepSeek-R1-Distill-Qwen-7B": 3}},
        },
        r"\boxed{\frac{1}{2}}",
    ),
    "deepcoder": (
        {
            "problem": "Add one.",
            "starter_code": "def inc(x):",
            "tests": json.dumps([{"input": "1", "output": "2", "testtype": "functional"}]),
            "metadata": {"func_name": "inc"},
        },
        "def inc(x):\n    return x + 1",
    ),
}


ROWS["humaneval_plus"] = (
    {
        **ROWS["humaneval"][0],
        "test": (
            "import numpy as np\n\n"
            "def check(candidate):\n"
            "    assert not isinstance(candidate(1), np.ndarray)\n"
            "    assert np.allclose([candidate(0.1), candidate(1)], (1.1 + 1e-9, 2), rtol=1e-07, atol=1e-6)\n"
            "    assert not np.allclose(candidate(1), 2.001, rtol=1e-07, atol=1e-6)\n"
        ),
    },
    ROWS["humaneval"][1],
)


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
