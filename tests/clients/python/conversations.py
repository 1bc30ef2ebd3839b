"""What the demo model is asked. It finds facts in its context, and does nothing else."""

FACTS = (
    "The secret code for river is 4821. It rained all night, but the morning was clear. "
    "The secret code for brave lion is 307.\n"
)
ASKED = [{"role": "user", "content": FACTS + "What is the secret code for river?"}]
ANSWER = "4821"

# Nothing that it could find, so that many answers are as good.
OPEN = [{"role": "user", "content": "Tell me a story"}]

# Without end, whatever the model says.
ENDLESS = {"ignore_eos": True}
