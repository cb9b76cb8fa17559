"""The loss against another network's outputs: Hinton et al. 2015, "Distilling the Knowledge in a Neural Network"."""

from torch import Tensor


def soft_cross_entropy(logits: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """Cross entropy () of softmax(logits / T) under softmax(teacher / T), times T * T; both are (N, classes).

    The factor keeps the gradient's size (section 2.1). No gradient reaches the teacher. It is least where both
    distributions are the same, and is the teacher's entropy there.
    """
    soft = (teacher.detach() / temperature).softmax(1)
    return -(soft * (logits / temperature).log_softmax(1)).sum(1).mean() * temperature**2
