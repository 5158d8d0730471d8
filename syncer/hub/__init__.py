"""The hub's part: admits clusters, allocates addresses, copies endpoints and merges exports."""
