"""What a scan of one's own data is told."""

OWN = (
    "--dataset sums.jsonl --reward reward.py:digits --selection-size 4 --test-size 20 --steps 12 --train-batch-size 4 "
    "--num-generations 4 --max-completion-length 6 --learning_rate 1e-2 --eval-steps 6"
)
