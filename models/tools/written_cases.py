"""All networks written by hand, in every version of their operators.

They stand in the files of their families: written_elements.py, written_layers.py and written_movement.py.
"""
import written_elements, written_layers, written_movement  # they enter themselves in WRITTEN
from networks import WRITTEN, Draw, versions


def written():
    """(name, operator, opset, net) of every network in WRITTEN, in every version of its operator."""
    for operator in sorted(WRITTEN):
        for first, _ in sorted(versions(operator).values()):
            for net in WRITTEN[operator](operator, first, Draw(operator)):
                yield f"{operator}_{first}_{net.tag}", operator, first, net
