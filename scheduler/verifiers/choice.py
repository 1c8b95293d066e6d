"""Which verifier goes with which proposals, and why the other pairs are refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from specinfer.runtime.errors import ConfigError
from specinfer.scheduler.verifiers import Verify
from specinfer.scheduler.verifiers.mss import verify_mss, verify_mss_without_replacement
from specinfer.scheduler.verifiers.sampling import verify_coupled, verify_greedy, verify_naive

AUTO = "auto"


@dataclass(frozen=True, slots=True)
class Verifier:
    """A way to verify.

    Attributes:
        verify: does it.
        draws: how drafters draw for it unless told otherwise.
        biased: the ways to draw that would change the law of the text, and why.
    """

    verify: Verify
    draws: str
    biased: Mapping[str, str] = field(default_factory=dict)


_NOT_DRAWN = (
    "the likeliest tokens are no draws: with the ratio of probabilities the text would be off by "
    "0.2 to 0.4 in total variation"
)
_SHARED_NOISE = (
    "all drafters look at the same noise, and the ratio takes their draws to be independent"
)

VERIFIERS: Mapping[str, Verifier] = {
    "greedy": Verifier(verify_greedy, "top_k"),
    "naive": Verifier(verify_naive, "top_k"),
    "coupled": Verifier(verify_coupled, "race"),
    "mss": Verifier(
        verify_mss,
        "iid",
        {
            "top_k": _NOT_DRAWN,
            "without_replacement": "the second draw is not from the probabilities that the ratio "
            "takes it to be from",
            "race": _SHARED_NOISE,
        },
    ),
    "mss_without_replacement": Verifier(
        verify_mss_without_replacement,
        "without_replacement",
        {
            "top_k": _NOT_DRAWN,
            "race": _SHARED_NOISE,
        },
    ),
}
"""By name."""


def check_draws(verifier: str, draws: str) -> None:
    """Refuse a pair that would change the law of the text.

    Raises:
        ConfigError: it would, and why.
    """
    found = VERIFIERS[verifier]
    if why := found.biased.get(draws):
        raise ConfigError(
            f"verifier {verifier} with draws {draws}: {why}; expected draws {found.draws}, or "
            "verifier coupled or naive, which are exact for any tree"
        )


def verifier_of(name: str, *, is_greedy: bool) -> Verifier:
    """The verifier of a request.

    Args:
        name: that was asked for, or ``auto``.
        is_greedy: whether the request is at temperature 0: there is but one right token then.

    Raises:
        ConfigError: ``greedy`` was asked for, and the request samples.
    """
    if is_greedy:
        return VERIFIERS["greedy"]
    if name == "greedy":
        raise ConfigError(
            "verifier greedy: temperature is above 0, expected 0, or one of the verifiers "
            + ", ".join(other for other in VERIFIERS if other != "greedy")
        )
    return VERIFIERS["coupled" if name == AUTO else name]
