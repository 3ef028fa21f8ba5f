"""What rows say: metrics, reports, figures. Reads only Parquet."""
