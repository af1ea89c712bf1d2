"""Is a small net worth its trouble where logistic regression already does well?

Command: `uv run lmjax train breast_cancer`. Hardware: 2 CPU cores. Time: 13 s of CPU.
Expected: .965 accuracy on the 114 held-out tumours, where logistic regression on the same
standardised measures has .982: no, it errs on 4 where the regression errs on 2. (Seed 1 gives
.965 and seed 2 .956; seed 0 at the rates 1e-3 and 1e-2 gives .939 and .965.)
"""

from lmjax.cli import experiment_main
from lmjax.data import Examples
from lmjax.experiment import Experiment
from lmjax.models import MLP
from lmjax.optim import AdamW, Cosine
from lmjax.tasks import Classification


def config() -> Experiment:
    """An MLP of one hidden layer on 30 standardised measures of 455 tumours, 114 held out."""
    return Experiment(
        name="breast_cancer",
        task=Classification(model=MLP(hidden=(32,), classes=2)),
        data=Examples(source="breast_cancer", held_out=114, standardize=True),
        optimizer=AdamW(learning_rate=3e-3, weight_decay=0.1),
        schedule=Cosine(),
        steps=300,
        batch_size=65,
        evaluate_every=100,
        save_every=100,
    )


if __name__ == "__main__":
    experiment_main(config)
