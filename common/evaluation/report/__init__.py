"""What comes out: scores with intervals, comparisons, the Excel file."""
