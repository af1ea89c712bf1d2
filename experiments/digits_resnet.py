"""How far does a small residual net on shifted images get with 8 x 8 digits?

Command: `uv run lmjax train digits_resnet`. Hardware: 2 CPU cores. Time: 14 s.
Expected: .997 accuracy on the 360 held-out digits (seeds 1 and 2: .992 and .994), where logistic
regression has .967.
"""

from lmjax.augmentation import ImageAugmentation
from lmjax.cli import experiment_main
from lmjax.data import Examples
from lmjax.experiment import Experiment
from lmjax.models import ResNet
from lmjax.optim import Cosine, Nesterov
from lmjax.tasks import Classification


def config() -> Experiment:
    """ResNet-8 of width 16 with momentum on scikit-learn's digits, 45 epochs of 1,437 examples."""
    return Experiment(
        name="digits_resnet",
        task=Classification(
            model=ResNet(blocks=(1, 1, 1)),
            augmentation=ImageAugmentation(flip=False, crop_padding=1),
        ),
        data=Examples(source="digits"),
        optimizer=Nesterov(learning_rate=0.1, weight_decay=5e-4),
        schedule=Cosine(),
        steps=500,
        batch_size=128,
        evaluate_every=250,
        save_every=250,
    )


if __name__ == "__main__":
    experiment_main(config)
