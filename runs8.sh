cd /tmp/simacc
for x in "1500 11" "300 8" "300 1" "300 3" "2000 2024"; do set -- $x; nice -n 10 taskset -c 0 ./v8 --scenarios $1 --seed $2 > v8_$2.txt 2>&1; done
