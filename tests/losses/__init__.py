"""The losses: against what upstream computed, and against their promises."""
