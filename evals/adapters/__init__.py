"""Model adapters: each is a lighteval ``LightevalModel`` and knows nothing of benchmarks."""
