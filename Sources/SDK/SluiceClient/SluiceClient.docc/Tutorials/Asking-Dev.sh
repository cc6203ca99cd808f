Tools/setup
Tools/build
.build/release/sluice dev --data ./data
