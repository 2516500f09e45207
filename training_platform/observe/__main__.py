"""Write the files of this folder: ``python -m training_platform.observe``; a test compares them."""

from __future__ import annotations

from training_platform.observe.make import write_all

if __name__ == "__main__":
    for path in write_all():
        print(path)
