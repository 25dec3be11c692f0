"""Speed against peers, measured interleaved, as ratios."""
