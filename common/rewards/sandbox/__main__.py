"""``python -m common.rewards.sandbox``: what this machine can enforce, detected by trying."""

from common.rewards.sandbox.run import main

if __name__ == "__main__":
    main()
