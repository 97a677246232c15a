"""What the generator says to a reward replica."""

from generator_svc.decoding.strategies import Reference
from generator_svc.engine.scorer import EncodedPreference, RewardContext
from generator_svc.reward_client.wire import pack_context


def test_an_encoding_goes_only_to_replicas_of_the_model_that_made_it() -> None:
    """While replicas change to another model, its vectors would score as the wrong user's."""
    preferences = (
        EncodedPreference("Be brief.", 1.0, {"v1": b"\0" * 8}),
        EncodedPreference("Be kind.", 0.5),
    )
    context = RewardContext("hi", preferences, Reference.BASE)
    old = pack_context(context, "v1", Reference.BASE).preferences
    new = pack_context(context, "v2", Reference.BASE).preferences
    assert [p.encoding for p in old] == [b"\0" * 8, b""]
    assert [p.encoding for p in new] == [b"", b""]
    assert [p.preference.text for p in new] == [
        "Be brief.",
        "Be kind.",
    ]
