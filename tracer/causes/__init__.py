"""Why a pair parts: what differs, proven by computing the layer again from what was recorded."""
