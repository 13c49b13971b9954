use std::sync::atomic::AtomicU32;
use std::time::Duration;

use super::*;

#[test]
fn every_task_runs_once() {
    for threads in [1, 2, 3, 8] {
        let pool = Pool::new(threads).unwrap();
        for tasks in [0, 1, 2, 7, 100] {
            let counts: Vec<_> = (0..tasks).map(|_| AtomicU32::new(0)).collect();
            pool.run(tasks, &|task, thread| {
                assert!(thread < pool.threads());
                counts[task].fetch_add(1, Ordering::Relaxed);
            });
            assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 1));
        }
    }
}

#[test]
fn jobs_follow_each_other_without_mixing() {
    let pool = Pool::new(4).unwrap();
    for round in 0..20_000u32 {
        let sum = AtomicU32::new(0);
        pool.run(5, &|task, _| {
            sum.fetch_add(round.wrapping_mul(task as u32), Ordering::Relaxed);
        });
        assert_eq!(sum.load(Ordering::Relaxed), round.wrapping_mul(10));
    }
}

#[test]
fn parked_workers_wake_up_for_a_job() {
    let pool = Pool::new(2).unwrap();
    for _ in 0..3 {
        std::thread::sleep(Duration::from_millis(30));
        let slow = AtomicU32::new(0);
        pool.run(2, &|_, thread| {
            std::thread::sleep(Duration::from_millis(20));
            slow.fetch_or(1 << thread, Ordering::Relaxed);
        });
        assert_eq!(slow.load(Ordering::Relaxed), 3, "both threads took a task");
    }
}

#[test]
fn a_panic_in_a_task_reaches_the_caller_and_the_pool_lives_on() {
    let pool = Pool::new(3).unwrap();
    let result = catch_unwind(AssertUnwindSafe(|| {
        pool.run(10, &|task, _| assert_ne!(task, 4, "task four"));
    }));
    assert!(result.is_err());
    let done = AtomicU32::new(0);
    pool.run(10, &|_, _| {
        done.fetch_add(1, Ordering::Relaxed);
    });
    assert_eq!(done.load(Ordering::Relaxed), 10);
}

#[test]
fn a_task_may_run_tasks_of_its_own() {
    for threads in [1, 3] {
        let (pool, other) = (Pool::new(threads).unwrap(), Pool::new(2).unwrap());
        let done = AtomicU32::new(0);
        let count = |_: usize, _: usize| {
            done.fetch_add(1, Ordering::Relaxed);
        };
        pool.run(4, &|_, thread| {
            pool.run(5, &|_, inner| assert_eq!(inner, thread));
            pool.run(5, &count);
            other.run(3, &count);
        });
        assert_eq!(done.load(Ordering::Relaxed), 32);
    }
}

#[test]
fn workers_that_sleep_end_with_their_pool() {
    for _ in 0..20 {
        let pool = Pool::new(4).unwrap();
        pool.run(4, &|_, _| {});
        std::thread::sleep(Duration::from_millis(2));
        drop(pool);
    }
}

#[test]
fn callers_on_several_threads_all_get_their_tasks_done() {
    let pool = Pool::new(2).unwrap();
    let total = AtomicU32::new(0);
    std::thread::scope(|s| {
        for _ in 0..4 {
            s.spawn(|| {
                for _ in 0..500 {
                    pool.run(3, &|_, _| {
                        total.fetch_add(1, Ordering::Relaxed);
                    });
                }
            });
        }
    });
    assert_eq!(total.load(Ordering::Relaxed), 6000);
}

#[test]
fn a_caller_does_not_wait_for_one_who_leads() {
    let pool = Pool::new(2).unwrap();
    let _leading = pool.enter();
    pool.run(2, &|_, _| {});
    let done = AtomicU32::new(0);
    std::thread::scope(|s| {
        let other = s.spawn(|| {
            pool.run(100, &|_, thread| {
                assert_eq!(thread, 0, "it runs its tasks alone");
                done.fetch_add(1, Ordering::Relaxed);
            });
        });
        other.join().unwrap();
    });
    assert_eq!(done.load(Ordering::Relaxed), 100);
}

#[test]
fn a_job_ends_though_no_worker_ever_comes() {
    let shared = Shared::new(20);
    for tasks in [2, 19, 20, 21, 1000] {
        let counts: Vec<_> = (0..tasks).map(|_| AtomicU32::new(0)).collect();
        shared.lead(tasks, &|task, thread| {
            assert_eq!(thread, 0);
            counts[task].fetch_add(1, Ordering::Relaxed);
        });
        assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 1));
    }
}

#[test]
fn a_worker_that_comes_late_finds_nothing_to_do() {
    let shared = Shared::new(3);
    let done = AtomicU32::new(0);
    let count = |_: usize, _: usize| {
        done.fetch_add(1, Ordering::Relaxed);
    };
    shared.lead(7, &count);
    let late = shared.posted.0.job.load(Ordering::Relaxed);
    shared.work(late, 1);
    shared.lead(2, &count);
    shared.work(late, 2);
    assert_eq!(done.load(Ordering::Relaxed), 9);
}

#[test]
fn numbers_of_jobs_come_round_again() {
    let shared = Shared::new(2);
    let last = u64::MAX >> BITS << BITS;
    shared.posted.0.job.store(last - (1 << BITS), Ordering::Relaxed);
    shared.seats.iter().for_each(|seat| seat.taken.0.store(last - (1 << BITS), Ordering::Relaxed));
    let done = AtomicU32::new(0);
    for _ in 0..4 {
        shared.lead(5, &|_, _| {
            done.fetch_add(1, Ordering::Relaxed);
        });
    }
    assert_eq!(done.load(Ordering::Relaxed), 20);
}

#[test]
fn a_job_may_have_more_tasks_than_a_word_counts() {
    let pool = Pool::new(2).unwrap();
    let tasks = 2 * MOST + 3;
    let sum = AtomicU64::new(0);
    pool.run(tasks, &|task, _| {
        sum.fetch_add(task as u64, Ordering::Relaxed);
    });
    assert_eq!(sum.load(Ordering::Relaxed), (tasks as u64 - 1) * tasks as u64 / 2);
}

#[test]
fn threads_beyond_the_cores_give_way_and_sleep() {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let pool = Pool::new(2 * cores + 1).unwrap();
    let asleep =
        |shared: &Shared| shared.asleep.iter().map(|bits| bits.load(Ordering::Relaxed).count_ones()).sum::<u32>();
    let until_all_sleep = || {
        while (asleep(&pool.shared) as usize) < 2 * cores {
            std::thread::sleep(Duration::from_millis(1));
        }
    };
    until_all_sleep();
    {
        // They sleep while a caller leads that has nothing for them, too.
        let _leading = pool.enter();
        pool.run(100, &|_, _| {});
        until_all_sleep();
    }
    assert!(pool.shared.crowd.gave_way.load(Ordering::Relaxed) >= 2 * cores as u64);
}

#[test]
fn pools_that_share_the_cores_both_get_on() {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let [a, b] = [(); 2].map(|()| Pool::new(cores.max(2)).unwrap());
    let (stop, jobs) = (AtomicBool::new(false), AtomicU32::new(0));
    let work = |_: usize, _: usize| (0..500).for_each(|_| std::hint::spin_loop());
    std::thread::scope(|s| {
        s.spawn(|| {
            let _leading = a.enter();
            while !stop.load(Ordering::Relaxed) {
                a.run(8, &work);
                jobs.fetch_add(1, Ordering::Relaxed);
            }
        });
        // Whichever of the two leads all the time, the other comes to the end of its jobs, in slices of them.
        for _ in 0..10 {
            let before = jobs.load(Ordering::Relaxed);
            let _leading = b.enter();
            (0..50).for_each(|_| b.run(8, &work));
            while jobs.load(Ordering::Relaxed) == before {
                b.run(8, &work);
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
}
