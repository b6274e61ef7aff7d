#!/bin/bash
# The reward is 1 if the answer is right.
printf 'the 7\nand 4\nowl 3\n' | cmp -s - /data/words.txt && [ "$GREETING" = "from the image" ]
echo $((1 - $?)) > /logs/verifier/reward.txt
