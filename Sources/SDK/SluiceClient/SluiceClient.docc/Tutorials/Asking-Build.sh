Tools/setup
Tools/build
