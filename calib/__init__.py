"""What is measured on pictures before a device decides: ranges for INT8, and thresholds from good parts."""
