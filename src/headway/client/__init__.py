"""The part that runs at a data owner: a participant, and the evaluation of models on its data."""
