"""Names of the layers that compute in float32 whatever --precision says; `compute.precision` finds them by name."""

# Puts the outputs per token together, after the head.
PER_TOKEN = "per_token"
# Scales features to L2 norm 1 in the head, or in its place.
L2_NORMALIZED = "l2_normalized"
# Scales the features of a backbone to L2 norm 1.
L2_NORMALIZED_FEATURES = "l2_normalized_features"
