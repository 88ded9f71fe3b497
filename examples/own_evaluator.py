"""A search without a supernet: which small perceptron reads the digits, trained anew for each candidate.

python examples/own_evaluator.py            # again: goes on where it stopped; nas dashboard shows it
python examples/own_evaluator.py 100        # a larger budget goes on too
"""

import sys
import warnings

from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

from nas.library import CategoricalSpace, search

SPACE = CategoricalSpace(
    {
        "width": [8, 16, 32, 64],
        "depth": [1, 2, 3],
        "activation": ["relu", "tanh"],
        "learning_rate": [0.001, 0.003, 0.01],
        "alpha": [1e-4, 1e-2, 1.0],
    },
    name="perceptrons",
)
IMAGES, LABELS = load_digits(return_X_y=True)
SPLIT = train_test_split(IMAGES / 16, LABELS, test_size=0.3, random_state=0, stratify=LABELS)


def evaluate(architecture):
    """Train on 70 % of the images, and count right answers on the others."""
    images, held_out, labels, answers = SPLIT
    network = MLPClassifier(
        hidden_layer_sizes=[architecture["width"]] * architecture["depth"],
        activation=architecture["activation"],
        learning_rate_init=architecture["learning_rate"],
        alpha=architecture["alpha"],
        max_iter=20,
        random_state=0,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # it stops after 20 epochs on purpose
        network.fit(images, labels)
    parameters = sum(weights.size for weights in (*network.coefs_, *network.intercepts_))
    return {"accuracy": 100 * network.score(held_out, answers), "parameters": parameters}


if __name__ == "__main__":
    budget = int(sys.argv[1]) if sys.argv[1:] else 40
    goals = {"accuracy": "maximize", "parameters": "minimize"}
    found = search(SPACE, evaluate, goals, budget=budget, store="nas.db")
    for one in found.front:
        print(f"{one.values['accuracy']:5.2f} % {one.values['parameters']:7,.0f}  {found.architecture(one)}")
